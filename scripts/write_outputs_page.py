"""Write docs/outputs.md from the artifacts, steps and contracts of the pipeline.

Only what no contract can say is written here: names of pictures, columns that a model brings.
"""

from __future__ import annotations

import inspect
import re
import sys
import types
import typing
from pathlib import Path
from typing import Any, Final

from page import flow, make_table, write_or_check
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from morphseq_dagster.engine.contract.step import StepSpec
from morphseq_dagster.engine.layout import FAILURE_SUFFIX, RECORD_SUFFIX, Layout
from morphseq_dagster.engine.storage.records import Record
from morphseq_dagster.engine.tables.check import load_contract
from morphseq_dagster.engine.tables.image_set import ImageSetManifest
from morphseq_dagster.engine.tables.table import Column, TableContract
from morphseq_dagster.morphseq.pipeline import MORPHSEQ

_ARTIFACTS: Final = {artifact.name: artifact for artifact in MORPHSEQ.artifacts}
_HEAD: Final = """\
# Outputs

Every file that a run leaves below the data root: where it lies, what is in it, who reads it. This page is made from
the code by `python scripts/write_outputs_page.py`; a test holds it equal to the code.

`{exp}` is the experiment, `{well}` a well such as `A01`, `{t}` a frame number of four digits, `{model}` a latent
model. Tables are CSV in UTF-8 with a comma and a point; an empty cell means unknown or absent, never zero or false.
Documents are JSON. Every artifact is checked against the columns below before it replaces an earlier version.
"""
_BESIDE: Final = f"""\
## Beside every artifact

| File | What it is |
| --- | --- |
| `{{file}}{RECORD_SUFFIX}` | the record: how the artifact was made, readable without Dagster |
| `{{file}}{FAILURE_SUFFIX}` | why the last attempt failed, with the remedy; removed by the next success |

For an image set both lie inside its first folder, beside the manifest. A file name that ends in `.tmp` is a write that
has not been finished; readers ignore it.
"""
_PRIVATE: Final = """\
## Working files

Nothing below `.morphseq/` is needed to read results. It may be removed while nothing runs; what is lost is finished
wells of steps that were cut off.

| Path | What it is |
| --- | --- |
| `.morphseq/claims/{exp}.{step}.json` | who works on the step right now: host, process, run |
| `.morphseq/pending/{exp}.{step}.json` | renames of a publication under way; finished by the next run after a crash |
| `.morphseq/retired/{exp}.json` | mark of an experiment that has left; its records and files stay |
| `.morphseq/adopt/` | pieces per experiment of files that held all experiments, made once by `morphseq adopt` |
| `.morphseq/work/{exp}/{step}/{well}/` | finished wells of a step that is not published yet |
| `.morphseq/previews/{exp}/{step}.png` | small picture of what the step made |
| `.morphseq/weights.json` | hashes of weights files as they were last read |
| `.morphseq/requests/{exp}/` | messages between the caller and a step in a subprocess |
"""
_INPUTS: Final = {
    "raw_folder": ("raw_image_data/{Keyence,YX1,Frames}/{exp}/", "the acquisition"),
    "plate_workbook": (
        "metadata/well_metadata/{exp}_well_metadata.xlsx",
        "the plate, one 8 x 12 sheet per variable; `metadata/plate_metadata/` is searched second",
    ),
    "perturbation_key": ("metadata/perturbation_name_key.csv", "the lab's names of perturbations"),
    "curation": (
        "metadata/curation/{exp}_overrides.csv",
        "flags set by hand: `snip_id` or `embryo_id`, `column`, `value` (true, false or blank), `reason`",
    ),
    "area_reference": ("metadata/sa_reference_curves.csv", "percentiles of embryo area: `stage_hpf`, `p5`, `p95`"),
    "stage_reference": ("metadata/stage_ref_df.csv", "embryo area against stage"),
    "gdino_weights": ("weights.gdino of morphseq.toml", "weights of the detector, a file or a folder"),
    "sam2_weights": ("weights.sam2 of morphseq.toml", "weights of the segmenter"),
    "latents_weights": ("weights.latents of morphseq.toml", "weights of the latent model"),
}
_NOTES: Final = {
    "raw_manifest": "The only artifact that carries file times: equal raw files give an equal `version`, which is what "
    "later steps compare, but not equal bytes.",
    "ff_images": "Pictures: `{well}_t{t}_stitch.jpg` (Keyence), `{well}_t{t}_ch{c}_stitch.jpg` (YX1 and Frames, `{c}` "
    "two digits). Keyence frames are inverted (embryo bright), `Frames` are kept as they came; `polarity` says which.",
    "organized_frames": "Pictures: `images/{exp}_{well}/{exp}_{well}_ch{c}_t{t}.jpg`, byte for byte those of "
    "`ff_images`.",
    "exported_masks": "Pictures: `masks/{image_id}_masks_emnum_{N}.png`, 8 bits; pixel value k is embryo k of N, 0 is "
    "background. An image without embryo has no file.",
    "snips": "Three folders, one publication: the snip with its background blended out, the same uncropped by the mask "
    "(both JPEG), and the mask of the embryo (PNG).",
    "latents": "Further columns: one per dimension, `z_mu_...`, float, no unit. The built-in model `dct_100` has "
    "`z_mu_00` to `z_mu_99`.",
    "embryo_latents_final": "Further columns: those of the latents, empty where the embryo has no snip.",
    "cohort_final": "Made by `morphseq cohort` alone. Its record lists which experiments are in it and which are not, "
    "and why.",
    "plate_metadata": "Further columns: every other 8 x 12 sheet of the workbook under its own name.",
    "built_metadata": "Further columns: those that `plate_metadata` carries beyond its own.",
    "sam2_metadata": "The order of the columns is fixed.",
    "qc_masks": "Says `unavailable` in this version: no weights, no masks. Flags that need one are unknown, not false.",
}


def main() -> int:
    """Write the page or check it."""
    return write_or_check("outputs.md", make=make_page, command="scripts/write_outputs_page.py")


def make_page() -> str:
    """Compose the page."""
    steps = [MORPHSEQ.spec(name) for name in (*MORPHSEQ.step_names, "cohort_final")]
    told: dict[type[BaseModel], str] = {}
    parts = [_HEAD, _overview(steps), _inputs(), _BESIDE]
    parts += ["### The record", "", *_describe_models(Record, place="the-record", told=told)]
    parts += [_describe(spec, told=told) for spec in steps]
    return "\n".join([*parts, _PRIVATE])


def _overview(steps: list[StepSpec]) -> str:
    rows = []
    for spec in steps:
        readers = [f"`{other.name}`" for other in steps if spec.name in other.inputs]
        if spec.name == MORPHSEQ.final:
            readers.append("`cohort_final`")
        artifact = _ARTIFACTS[spec.name]
        rows.append(
            (
                f"[`{spec.name}`](#{spec.name})",
                f"`{_path(artifact.primary)}`",
                spec.stage,
                artifact.column,
                ", ".join(readers) or "people",
            )
        )
    lines = make_table(("Artifact", "File", "Stage", "Column of `morphseq status`", "Read by"), rows)
    return "\n".join(["## All artifacts", "", *lines, ""])


def _inputs() -> str:
    """Files that a microscope, a lab or a person supplies, by the steps that read them."""
    readers: dict[str, list[str]] = {}
    required: dict[str, str] = {}
    for spec in MORPHSEQ.steps:
        for external in spec.externals:
            readers.setdefault(external.name, []).append(f"`{spec.name}`")
            required[external.name] = "yes" if external.required else "no, then unknown"
            if external.wanted is not None:
                required[external.name] = "where the recipe's backend wants them"
    rows = [(f"`{_INPUTS[n][0]}`", _INPUTS[n][1], ", ".join(r), required[n]) for n, r in readers.items()]
    default, own = (Layout(Path("/")).relative(path) for path in Layout(Path("/")).recipes("{exp}"))
    rows.append((f"`{default}`, `{own}`", "parameters, see [recipes](recipes.md)", "the step each belongs to", "no"))
    lines = make_table(("File", "What it is", "Read by", "Needed"), rows)
    return "\n".join(["## Inputs", "", "Hashed each time; a change makes exactly their readers run.", "", *lines, ""])


def _describe(spec: StepSpec, *, told: dict[type[BaseModel], str]) -> str:
    artifact = _ARTIFACTS[spec.name]
    lines = [f"## {spec.name}", "", artifact.description, ""]
    lines += [f"File: `{_path(artifact.primary)}`"]
    if artifact.folders:
        lines += ["", "Folders: " + ", ".join(f"`{_path(folder)}/`" for folder in artifact.folders)]
    if note := _NOTES.get(spec.name):
        lines += ["", note]
    lines.append("")
    contract = load_contract(artifact)
    if isinstance(contract, TableContract):
        return "\n".join([*lines, *_describe_table(contract)])
    return "\n".join([*lines, *_describe_models(contract, place=spec.name, told=told)])


def _describe_table(contract: TableContract) -> list[str]:
    lines = [f"One row per {', '.join(f'`{name}`' for name in contract.key)}.", ""]
    parent = next((p for p in _PARENTS.get(contract.name, ()) if _begins_with(contract, p)), None)
    columns: tuple[Column, ...] = contract.columns
    if parent is not None:
        count = len(_contract(parent).columns)
        columns = columns[count:]
        lines += [f"All {count} columns of [`{parent}`](#{parent})" + (", then:" if columns else "."), ""]
    if not columns:
        return lines
    rows = [
        (f"`{c.name}`", _DTYPES[c.dtype], c.unit, c.description, _limits(c), "yes" if c.nullable else "")
        for c in columns
    ]
    return [*lines, *make_table(("Column", "Type", "Unit", "Meaning", "Range", "May be empty"), rows), ""]


_PARENTS: Final = {
    "qc_staged": ("embryo_metadata",),
    "embryo_latents_final": ("qc_staged",),
    "cohort_final": ("embryo_latents_final",),
}


def _contract(name: str) -> TableContract:
    contract = load_contract(_ARTIFACTS[name])
    assert isinstance(contract, TableContract)  # noqa: S101 - a wrong name is an error of this script
    return contract


def _begins_with(contract: TableContract, parent: str) -> bool:
    columns = _contract(parent).columns
    return contract.columns[: len(columns)] == columns


def _limits(column: Column) -> str:
    if column.allowed is not None:
        return ", ".join(f"`{value}`" for value in column.allowed)
    low, high = (None if v is None else f"{v:g}" for v in (column.minimum, column.maximum))
    if low is not None and high is not None:
        return f"{low} to {high}"
    return f"≥ {low}" if low is not None else f"≤ {high}" if high is not None else ""


def _models(model: type[BaseModel]) -> list[type[BaseModel]]:
    """A document model and the models inside it, each once, outer ones first."""
    found = [model]
    for current in found:
        for field in current.model_fields.values():
            for inner in _inside(field.annotation):
                if inner not in found:
                    found.append(inner)
    return found


def _inside(annotation: object) -> list[type[BaseModel]]:
    if inspect.isclass(annotation) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for argument in typing.get_args(annotation) for model in _inside(argument)]


def _describe_models(root: type[BaseModel], *, place: str, told: dict[type[BaseModel], str]) -> list[str]:
    """Describe a document and the objects in it; `told` remembers where each has been described."""
    if root in told:
        return [f"The same document as [`{told[root]}`](#{told[root]}).", ""]
    lines = []
    for model in _models(root):
        if model in told:
            continue
        told[model] = place
        lines += [] if model is root else [f"**{model.__name__}**", ""]
        lines += _describe_model(model)
    return lines


def _describe_model(model: type[BaseModel]) -> list[str]:
    is_manifest = issubclass(model, ImageSetManifest)
    rows = [
        (f"`{name}`", _type_name(field.annotation), _bounds(field))
        for name, field in model.model_fields.items()
        if not (is_manifest and name == "files")
    ]
    words = [flow(inspect.getdoc(model) or ""), ""]
    if is_manifest:
        rows.append(("`files`", "object of `FileEntry`", "key: path relative to the data root"))
    return [*words, *make_table(("Key", "Type", "Range"), rows), ""]


def _bounds(field: FieldInfo) -> str:
    signs = (("ge", "≥"), ("gt", ">"), ("le", "≤"), ("lt", "<"))
    found = [f"{sign} {getattr(m, name):g}" for m in field.metadata for name, sign in signs if hasattr(m, name)]
    return ", ".join(found)


def _type_name(annotation: object) -> str:
    """Type in words of JSON."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_type_name(a) for a in arguments)
    if origin is typing.Literal:
        return ", ".join(f"`{value}`" for value in arguments)
    if origin is dict:
        return f"object of {_type_name(arguments[1])}"
    if origin is tuple:
        inner = [a for a in arguments if a is not Ellipsis]
        return f"list of {_type_name(inner[0])}" if Ellipsis in arguments else f"{len(inner)} {_type_name(inner[0])}s"
    if inspect.isclass(annotation) and issubclass(annotation, BaseModel):
        return f"`{annotation.__name__}`"
    return next((word for kind, word in _WORDS.items() if kind is annotation), "any value")


_DTYPES: Final = {"str": "text", "int": "whole number", "float": "number", "bool": "true or false"}
_WORDS: Final[dict[Any, str]] = {
    str: "text",
    int: "whole number",
    float: "number",
    bool: "true or false",
    type(None): "null",
}


def _path(template: str) -> str:
    return re.sub(r"\{variant\}", "{model}", template)


if __name__ == "__main__":
    sys.exit(main())
