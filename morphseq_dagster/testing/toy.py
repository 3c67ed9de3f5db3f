"""Toy pipeline: three steps that show the whole step contract without any science.

`letters` copies the words of a raw text file per well (image set, well by well), `lengths` counts them (table),
`summary` sums up (document). Used by the tests of storage, places and assets, and as the shortest example of a step.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from morphseq_dagster.engine.contract.context import Account, StepContext
from morphseq_dagster.engine.contract.step import ExternalInput, StepResult, StepSpec
from morphseq_dagster.engine.contract.wells import WellTask, map_wells
from morphseq_dagster.engine.layout import Artifact, Layout
from morphseq_dagster.engine.pipeline import Pipeline
from morphseq_dagster.engine.storage.checkpoints import WellPayload
from morphseq_dagster.engine.storage.hashing import hash_bytes
from morphseq_dagster.engine.tables.document import DocumentPart
from morphseq_dagster.engine.tables.image_set import FileEntry, ImageSetManifest
from morphseq_dagster.engine.tables.table import Column, TableContract
from morphseq_dagster.errors import PermanentError, TransientError
from morphseq_dagster.morphseq.pipeline import MORPHSEQ
from morphseq_dagster.parameters import Parameters


class LettersRecipe(Parameters):
    """Parameters of `letters`."""

    upper: bool = False
    """Whether words are written in capitals."""
    slow_s: float = 0.0
    """Seconds that every well takes, for tests that interrupt."""
    hold: str = ""
    """File that every well waits for, for tests that say when they may end; empty for none."""
    max_failed_share: float = 0.5
    """Share of failed wells above which the step fails."""


class Summary(DocumentPart):
    """Number of wells and of letters."""

    wells: int
    letters: int


LENGTHS = TableContract(
    "lengths",
    (Column("well", "str"), Column("letters", "int", minimum=0), Column("share", "float", minimum=0, maximum=1)),
    key=("well",),
    order=("well",),
)

_HERE = "morphseq_dagster.testing.toy"
_ARTIFACTS = (
    Artifact(
        "letters",
        "image_set",
        "letters/{exp}/letters_manifest_{exp}.json",
        "One file per well.",
        contract="morphseq_dagster.engine.tables.image_set:ImageSetManifest",
        folders=("letters/{exp}",),
    ),
    Artifact("lengths", "table", "tables/lengths_{exp}.csv", "Letters per well.", contract=f"{_HERE}:LENGTHS"),
    Artifact(
        "summary", "document", "tables/summary_{exp}.json", "Wells and letters in all.", contract=f"{_HERE}:Summary"
    ),
)


def words_file(layout: Layout, experiment: str) -> Path:
    """Raw input: one line `well word` per well."""
    return layout.data_root / "words" / f"{experiment}.txt"


def run_letters(context: StepContext) -> StepResult:
    """Write one file per well; the words `fail`, `busy`, `full` and `kill` make their well misbehave as named."""
    recipe, words = inputs = _read_words(context)
    folder = context.layout.folders("letters", experiment=context.experiment)[0]

    def restore(task: WellTask) -> WellPayload | None:
        path = folder / f"{task.well}.txt"
        return WellPayload({}, {path.name: path}) if path.is_file() else None

    run = map_wells(
        context,
        tasks=[WellTask(well, word) for well, word in words.items()],
        compute=_write_word,
        load=_read_words,
        state=inputs,
        restore=restore,
        max_failed_share=recipe.max_failed_share,
    )
    files = {folder / n: Path(str(p)) for payload in run.payloads.values() for n, p in payload.files.items()}
    entries = {
        context.layout.relative(target): FileEntry(sha256=hash_bytes(p.read_bytes()), size=p.stat().st_size)
        for target, p in sorted(files.items())
    }
    manifest = ImageSetManifest(experiment_id=context.experiment, files=entries)
    account = Account(wells=run.states, counts={"computed": run.computed})
    return context.stage_images(files, manifest=manifest, folders=(folder,), account=account)


def _read_words(context: StepContext) -> tuple[LettersRecipe, dict[str, str]]:
    """Read the recipe and the word of every well."""
    raw = context.external("words")
    lines = [line.split() for line in (raw.read_text().splitlines() if raw is not None else [])]
    return context.recipe(LettersRecipe), {line[0]: line[1] for line in lines}


def _write_word(task: WellTask, state: tuple[LettersRecipe, dict[str, str]]) -> WellPayload:
    """Write the file of one well."""
    recipe, words = state
    time.sleep(recipe.slow_s)
    while recipe.hold and not Path(recipe.hold).exists():
        time.sleep(0.05)
    word = words[task.well]
    if word == "fail":
        raise PermanentError(expected="a word", found=word, where=task.well, remedy="write another word")
    if word == "busy":
        raise TransientError(expected="a free device", found=word, where=task.well, remedy="try again")
    if word == "full":
        raise OSError(28, "No space left on device")
    if word == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    return WellPayload({}, {f"{task.well}.txt": (word.upper() if recipe.upper else word).encode()})


def run_lengths(context: StepContext) -> StepResult:
    """Count the letters of every well."""
    import pandas as pd

    manifest = context.document("letters", ImageSetManifest)
    texts = {Path(path).stem: context.picture(path, entry=entry) for path, entry in manifest.files.items()}
    total = sum(len(text) for text in texts.values())
    rows = [(well, len(text), len(text) / total) for well, text in texts.items()]
    return context.stage_table(pd.DataFrame(rows, columns=list(LENGTHS.names)), contract=LENGTHS)


def run_summary(context: StepContext) -> StepResult:
    """Sum the letters up."""
    table = context.table("lengths", LENGTHS)
    return context.stage_document(Summary(wells=len(table), letters=int(table["letters"].sum())))


TOY_PIPELINE = Pipeline(
    name="toy",
    steps=(
        StepSpec(
            "letters",
            1,
            f"{_HERE}:run_letters",
            (),
            group="toy",
            externals=(ExternalInput("words", words_file, required=True),),
            recipe=LettersRecipe,
        ),
        StepSpec("lengths", 1, f"{_HERE}:run_lengths", ("letters",), group="toy"),
        StepSpec("summary", 1, f"{_HERE}:run_summary", ("lengths",), group="toy"),
    ),
    artifacts=_ARTIFACTS,
    keys=MORPHSEQ.keys,
    sources=MORPHSEQ.sources,
)
