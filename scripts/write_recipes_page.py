"""Write docs/recipes.md from the recipe slices: every parameter with default, allowed values, unit, meaning, source.

Meaning and source come from the parameters' docstrings, backends from their entries.
"""

from __future__ import annotations

import ast
import inspect
import sys
import textwrap
import types
import typing
from typing import Final

from page import flow, make_table, write_or_check
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from morphseq_dagster.backends import BackendSlice
from morphseq_dagster.morphseq.pipeline import MORPHSEQ
from morphseq_dagster.parameters import Parameters

_HEAD: Final = """\
# Recipes

Every parameter that can change a pixel or a number. This page is made from the code by
`python scripts/write_recipes_page.py`; a test holds it equal to the code.

Defaults are in the code. `{data_root}/recipes/default.toml` changes them for all experiments below a data root,
`{data_root}/recipes/{exp}.toml` for one, and wins. A section is named after the step:

```toml
[gdino_detections]
confidence_threshold = 0.5

[snips.snip]
taper_um = 20.0

[gdino_raw]
backend = "classical"

[gdino_raw.classical]
rim_mad = 9.0

[gdino_raw.groundingdino]
prompt = "zebrafish embryo"

[embryo_latents_final]
rows = "usable"
```

An unknown name is an error that names the nearest right one. Where a `backend` is chosen, its parameters stand in a
table of its name; those that stand straight in the section count for every backend that has them. The tables of
backends that are not chosen are checked and then left out: they change no result and stand in no record, so that you
can switch back and forth with one file.

A step's result depends on its own section alone: a
changed value makes that step and those that read it run again, nothing else. Every record holds the values that were
used. What a machine needs to know (data root, places, threads) is no recipe: it stands in the environment, `.env` or
`morphseq.toml`.

"Spec" in the sources is the specification of the pipeline that this project succeeds; "measured" says that a value was
set on pictures, and on which.
"""
_UNITS: Final = (
    ("_um_per_px", "um/px"),
    ("_um2", "um²"),
    ("_um", "um"),
    ("_px", "px"),
    ("_per_h", "per h"),
    ("_per_frame", "per frame"),
    ("_frames", "frames"),
    ("_per_c", "per h and °C"),
    ("_at_zero_c", "per h"),
    ("_c", "°C"),
    ("_h", "h"),
    ("_percentile", "%"),
)


def main() -> int:
    """Write the page or check it."""
    return write_or_check("recipes.md", make=make_page, command="scripts/write_recipes_page.py")


def make_page() -> str:
    """Compose the page."""
    parts = [_HEAD]
    without = []
    titles = {artifact.name: artifact.description for artifact in MORPHSEQ.artifacts}
    for spec in MORPHSEQ.steps:
        rows = list(_rows(spec.recipe))
        if not rows:
            without.append(f"`{spec.name}`")
            continue
        parts += ["\n".join([f"## {spec.name}", "", titles[spec.name], ""])]
        parts += ["\n".join(make_table(("Parameter", "Default", "Allowed", "Unit", "Meaning and source"), rows)), ""]
    parts += ["\n".join(["## Steps without parameters", "", ", ".join(without) + ".", ""])]
    return "\n".join(parts)


def _rows(model: type[BaseModel], *, prefix: str = "") -> typing.Iterator[tuple[str, str, str, str, str]]:
    told = _read_docstrings(model)
    for name, field in model.model_fields.items():
        if issubclass(model, BackendSlice) and name == "backend":
            names = ", ".join(f"`{entry.name}`" for entry in model.backends)
            texts = [f"`{b.name}`: {b.text}{'' if b.loader else ' Not in this version.'}" for b in model.backends]
            rule = "One that cannot be loaded is an error, never replaced by another."
            yield f"`{name}`", _value(model.backends.default), names, "", " ".join([*texts, rule])
            for entry in model.backends:
                yield from _rows(entry.parameters, prefix=f"{entry.name}.")
            continue
        if inspect.isclass(field.annotation) and issubclass(field.annotation, BaseModel):
            yield from _rows(field.annotation, prefix=f"{prefix}{name}.")
            continue
        text = field.description or told.get(name, "")
        yield f"`{prefix}{name}`", _value(field.default), _allowed(field), _unit(name), text


def _read_docstrings(model: type[BaseModel]) -> dict[str, str]:
    """Docstrings below attributes; one below several in a row speaks of them all."""
    texts: dict[str, str] = {}
    for cls in reversed(model.__mro__):
        if not issubclass(cls, BaseModel) or cls in (BaseModel, Parameters):
            continue
        (tree,) = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
        assert isinstance(tree, ast.ClassDef)  # noqa: S101 - it is the source of a class
        waiting: list[tuple[str, int]] = []
        for node in tree.body:
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                if waiting and node.lineno > waiting[-1][1] + 1:
                    waiting = []
                waiting.append((node.target.id, node.end_lineno or node.lineno))
            elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
                texts |= {name: flow(str(node.value.value)) for name, _ in waiting}
                waiting = []
    return texts


def _value(value: object) -> str:
    if value is None:
        return "none"
    return f"`{str(value).lower()}`" if isinstance(value, bool) else f"`{value}`"


def _allowed(field: FieldInfo) -> str:
    if choices := _choices(field.annotation):
        return ", ".join(f"`{choice}`" for choice in choices)
    signs = (("ge", "≥"), ("gt", ">"), ("le", "≤"), ("lt", "<"))
    return ", ".join(f"{s} {getattr(m, n):g}" for m in field.metadata for n, s in signs if hasattr(m, n))


def _choices(annotation: object) -> tuple[object, ...]:
    if typing.get_origin(annotation) is typing.Literal:
        return typing.get_args(annotation)
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return tuple(choice for part in typing.get_args(annotation) for choice in _choices(part))
    return ()


def _unit(name: str) -> str:
    return next((unit for suffix, unit in _UNITS if name.endswith(suffix)), "")


if __name__ == "__main__":
    sys.exit(main())
