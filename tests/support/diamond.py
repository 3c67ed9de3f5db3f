"""Diamond pipeline: the toy steps, and what they lack of the real ones' shapes.

`letters` feeds `lengths` and `mirrors`, which meet again in `sentence`; `summary` hangs on `lengths` alone. `mirrors`
publishes two folders as one unit and reads a file of the whole lab that may be absent, as weights are. Used where every
way of becoming stale must be walked many times.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from morphseq_dagster.engine.contract.context import Account, StepContext
from morphseq_dagster.engine.contract.step import ExternalInput, StepResult, StepSpec
from morphseq_dagster.engine.contract.wells import WellTask, map_wells
from morphseq_dagster.engine.layout import Artifact, Layout
from morphseq_dagster.engine.pipeline import Pipeline
from morphseq_dagster.engine.storage.checkpoints import WellPayload
from morphseq_dagster.engine.storage.hashing import hash_bytes
from morphseq_dagster.engine.tables.document import DocumentPart
from morphseq_dagster.engine.tables.image_set import FileEntry, ImageSetManifest
from morphseq_dagster.testing.toy import LENGTHS, TOY_PIPELINE

DIAMOND: Final = "tests.support.diamond:DIAMOND_PIPELINE"
"""Name of the pipeline as runner and settings want it."""
_ARTIFACTS: Final = (
    *TOY_PIPELINE.artifacts,
    Artifact(
        "mirrors",
        "image_set",
        "mirrors/forward/{exp}/mirrors_manifest_{exp}.json",
        "Words forwards and backwards.",
        contract="morphseq_dagster.engine.tables.image_set:ImageSetManifest",
        folders=("mirrors/forward/{exp}", "mirrors/backward/{exp}"),
    ),
    Artifact(
        "sentence",
        "document",
        "tables/sentence_{exp}.json",
        "What came by both ways.",
        contract="tests.support.diamond:Sentence",
    ),
)


class Sentence(DocumentPart):
    """Words read backwards, in the order of their wells, and how many letters were counted."""

    words: tuple[str, ...]
    letters: int


def weights_file(layout: Layout, experiment: str) -> Path:
    """Registered input of the whole lab: what `mirrors` adds to every word; absent, it adds nothing."""
    del experiment
    return layout.data_root / "mirror_weights.txt"


class _Inputs:
    """Pictures of the words by well, and what is added to each word."""

    def __init__(self, context: StepContext) -> None:
        self.context = context
        manifest = context.document("letters", ImageSetManifest)
        self.pictures = {Path(name).stem: (name, entry) for name, entry in manifest.files.items()}
        path = context.external("mirror_weights")
        self.added = path.read_text() if path is not None else ""


def _mirror(task: WellTask, inputs: _Inputs) -> WellPayload:
    """Write the word of one well forwards and backwards."""
    name, entry = inputs.pictures[task.well]
    word = inputs.context.picture(name, entry=entry).decode()
    return WellPayload({}, {"forward.txt": word.encode(), "backward.txt": (word[::-1] + inputs.added).encode()})


def run_mirrors(context: StepContext) -> StepResult:
    """Write every word forwards into one folder and backwards into another."""
    inputs = _Inputs(context)
    folders = context.layout.folders("mirrors", experiment=context.experiment)

    def restore(task: WellTask) -> WellPayload | None:
        paths = {name: folder / f"{task.well}.txt" for name, folder in zip(_NAMES, folders, strict=True)}
        return WellPayload({}, dict(paths)) if all(path.is_file() for path in paths.values()) else None

    tasks = [WellTask(well, [entry.sha256, inputs.added]) for well, (_, entry) in inputs.pictures.items()]
    run = map_wells(
        context,
        tasks=tasks,
        compute=_mirror,
        load=_Inputs,
        state=inputs,
        restore=restore,
        max_failed_share=0.0,
    )
    files = {
        folder / f"{well}.txt": Path(str(payload.files[name]))
        for well, payload in run.payloads.items()
        for name, folder in zip(_NAMES, folders, strict=True)
    }
    entries = {
        context.layout.relative(target): FileEntry(sha256=hash_bytes(p.read_bytes()), size=p.stat().st_size)
        for target, p in sorted(files.items())
    }
    made = ImageSetManifest(experiment_id=context.experiment, files=entries)
    account = Account(wells=run.states, counts={"computed": run.computed})
    return context.stage_images(files, manifest=made, folders=folders, account=account)


def run_sentence(context: StepContext) -> StepResult:
    """Join what came by both ways."""
    table = context.table("lengths", LENGTHS)
    manifest = context.document("mirrors", ImageSetManifest)
    texts = {name: context.picture(name, entry=entry).decode() for name, entry in manifest.files.items()}
    words = tuple(text for name, text in sorted(texts.items()) if "/backward/" in name)
    return context.stage_document(Sentence(words=words, letters=int(table["letters"].sum())))


_NAMES: Final = ("forward.txt", "backward.txt")
_HERE: Final = "tests.support.diamond"
_LETTERS, _LENGTHS, _SUMMARY = TOY_PIPELINE.steps
DIAMOND_PIPELINE: Final = Pipeline(
    name="diamond",
    steps=(
        _LETTERS,
        _LENGTHS,
        StepSpec(
            "mirrors",
            1,
            f"{_HERE}:run_mirrors",
            ("letters",),
            group="toy",
            externals=(ExternalInput("mirror_weights", weights_file),),
        ),
        _SUMMARY,
        StepSpec("sentence", 1, f"{_HERE}:run_sentence", ("lengths", "mirrors"), group="toy"),
    ),
    artifacts=_ARTIFACTS,
    keys=TOY_PIPELINE.keys,
    sources=TOY_PIPELINE.sources,
)
