"""A second workflow: models are trained under several conditions, and compared.

It shares nothing with MorphSeq but the engine: its keys are conditions such as `cnn|seed=3`, which come from a list
that a person writes, and it has a data root, artifacts, status columns, a final table and a cohort of its own. Its
tests show what the engine promises to any workflow; its `PIPELINE` is what a code location of its own is made of
(`training_definitions.py`).
"""

from __future__ import annotations

import hashlib
import os
import re
import signal
import time
from pathlib import Path
from typing import Final

from morphseq_dagster.engine.cohort import read_manifest
from morphseq_dagster.engine.contract.context import Account, StepContext
from morphseq_dagster.engine.contract.step import ExternalInput, StepResult, StepSpec
from morphseq_dagster.engine.contract.wells import WellTask, map_wells
from morphseq_dagster.engine.layout import Artifact, Layout
from morphseq_dagster.engine.pipeline import FoundSource, KeyRule, Pipeline, Source, Sources
from morphseq_dagster.engine.storage.checkpoints import WellPayload
from morphseq_dagster.engine.storage.hashing import hash_bytes
from morphseq_dagster.engine.tables.document import DocumentPart
from morphseq_dagster.engine.tables.image_set import FileEntry, ImageSetManifest
from morphseq_dagster.engine.tables.table import Column, TableContract
from morphseq_dagster.parameters import Parameters

_HERE: Final = "morphseq_dagster.testing.training"
PIPELINE: Final = f"{_HERE}:TRAINING"
"""Name of the pipeline as the command line, runners and definitions want it."""
_KEY: Final = re.compile(r"(?:cnn|mlp)\|seed=[0-9]{1,4}", re.ASCII)


class SplitRecipe(Parameters):
    """Parameters of `split`."""

    folds: int = 3
    """Parts into which the observations are cut."""


class FitsRecipe(Parameters):
    """Parameters of `fits`."""

    rounds: int = 100
    """Rounds of hashing that stand for training."""
    slow_s: float = 0.0
    """Seconds that every fold takes, for tests that interrupt."""
    kill_fold: str = ""
    """Fold in which the process kills itself, for tests; empty for none."""


class Split(DocumentPart):
    """Observations of each fold."""

    folds: dict[str, tuple[str, ...]]


SCORES = TableContract(
    "scores",
    (Column("condition", "str"), Column("fold", "str"), Column("score", "float", minimum=0, maximum=1)),
    key=("condition", "fold"),
    order=("condition", "fold"),
)


def conditions_file(layout: Layout) -> Path:
    """List of conditions that a person writes, one per line."""
    return layout.data_root / "study" / "conditions.txt"


def observations_file(layout: Layout, condition: str) -> Path:
    """Observations, one per line, the same for all conditions."""
    del condition
    return layout.data_root / "study" / "observations.txt"


def list_conditions(layout: Layout) -> tuple[Source, ...]:
    """List the conditions that a person wants; none as long as there is no list."""
    path = conditions_file(layout)
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    names = sorted({line.strip() for line in lines if line.strip()})
    return tuple(Source(name, "condition", path, refuse_condition(name) or "") for name in names)


def inspect_condition(layout: Layout, source: Source) -> FoundSource:
    """Say whether a condition can be worked on."""
    del layout
    fingerprint = hash_bytes(source.name.encode())[:16]
    return FoundSource(
        source.name,
        source.kind,
        "refused" if source.reason else "ready",
        source.reason,
        files=1,
        fingerprint=fingerprint,
    )


def refuse_condition(name: str) -> str | None:
    """Say why a text is no condition; None when it is one."""
    return None if _KEY.fullmatch(name) else "a condition is a model (cnn or mlp), `|seed=` and a number"


def run_split(context: StepContext) -> StepResult:
    """Cut the observations into folds, in an order that the seed of the condition gives."""
    recipe = context.recipe(SplitRecipe)
    path = context.external("observations")
    names = path.read_text(encoding="utf-8").split() if path is not None else []
    ordered = sorted(names, key=lambda name: hash_bytes(f"{context.experiment} {name}".encode()))
    folds = {f"fold{n + 1}": tuple(ordered[n :: recipe.folds]) for n in range(recipe.folds)}
    return context.stage_document(Split(folds=folds), account=Account(counts={"observations": len(names)}))


def run_fits(context: StepContext) -> StepResult:
    """Train one model per fold; each is a file."""
    recipe, split = context.recipe(FitsRecipe), context.document("split", Split)
    folder = context.layout.folders("fits", experiment=context.experiment)[0]

    def restore(task: WellTask) -> WellPayload | None:
        path = folder / f"{task.well}.bin"
        return WellPayload({}, {path.name: path}) if path.is_file() else None

    run = map_wells(
        context,
        tasks=[WellTask(fold, [context.experiment, *names]) for fold, names in split.folds.items()],
        compute=_fit,
        load=_read_recipe,
        state=recipe,
        restore=restore,
        max_failed_share=0.0,
    )
    files = {folder / name: Path(str(path)) for p in run.payloads.values() for name, path in p.files.items()}
    entries = {
        context.layout.relative(target): FileEntry(sha256=hash_bytes(path.read_bytes()), size=path.stat().st_size)
        for target, path in sorted(files.items())
    }
    account = Account(wells=run.states, counts={"computed": run.computed})
    manifest = ImageSetManifest(experiment_id=context.experiment, files=entries)
    return context.stage_images(files, manifest=manifest, folders=(folder,), account=account)


def _read_recipe(context: StepContext) -> FitsRecipe:
    """Read the recipe in a worker."""
    return context.recipe(FitsRecipe)


def _fit(task: WellTask, recipe: FitsRecipe) -> WellPayload:
    """Train the model of one fold."""
    time.sleep(recipe.slow_s)
    if recipe.kill_fold == task.well:
        os.kill(os.getpid(), signal.SIGKILL)
    state = " ".join(task.inputs).encode()
    for _ in range(recipe.rounds):
        state = hashlib.sha256(state).digest()
    return WellPayload({}, {f"{task.well}.bin": state})


def run_scores(context: StepContext) -> StepResult:
    """Score every fold's model."""
    import pandas as pd

    manifest = context.document("fits", ImageSetManifest)
    rows = [
        (context.experiment, Path(path).stem, context.picture(path, entry=entry)[0] / 255)
        for path, entry in manifest.files.items()
    ]
    return context.stage_table(pd.DataFrame(rows, columns=list(SCORES.names)), contract=SCORES)


def run_comparison(context: StepContext) -> StepResult:
    """Join the scores of all conditions."""
    import pandas as pd

    members = [entry.name for entry in context.request.inputs if entry.sha256 is not None]
    table = pd.concat([context.table(name, SCORES) for name in members], ignore_index=True)
    left_out = [f"{m.experiment}: {m.exclusion}" for m in read_manifest(TRAINING, layout=context.layout).excluded]
    account = Account(counts={"conditions": len(members)}, warnings=tuple(left_out))
    return context.stage_table(table, contract=SCORES, account=account)


TRAINING: Final = Pipeline(
    name="training",
    steps=(
        StepSpec(
            "split",
            1,
            f"{_HERE}:run_split",
            (),
            group="training",
            stage="prepare",
            externals=(ExternalInput("observations", observations_file, required=True),),
            recipe=SplitRecipe,
        ),
        StepSpec("fits", 1, f"{_HERE}:run_fits", ("split",), group="training", stage="train", recipe=FitsRecipe),
        StepSpec("scores", 1, f"{_HERE}:run_scores", ("fits",), group="training", stage="train"),
    ),
    artifacts=(
        Artifact(
            "split",
            "document",
            "prepared/split of {exp}.json",
            "Observations of each fold.",
            contract=f"{_HERE}:Split",
            column="SPLIT",
        ),
        Artifact(
            "fits",
            "image_set",
            "trained/{exp}/fits.json",
            "One trained model per fold.",
            contract="morphseq_dagster.engine.tables.image_set:ImageSetManifest",
            column="FITS",
            folders=("trained/{exp}",),
        ),
        Artifact(
            "scores",
            "table",
            "results/scores of {exp}.csv",
            "Score of every fold; the final table of a condition.",
            contract=f"{_HERE}:SCORES",
            column="SCORES",
        ),
        Artifact(
            "comparison",
            "table",
            "results/comparison.csv",
            "The scores of all conditions in one.",
            contract=f"{_HERE}:SCORES",
        ),
    ),
    keys=KeyRule(
        refuse_condition, noun="condition", example="cnn|seed=3", remedy="correct the line of study/conditions.txt"
    ),
    sources=Sources(list_conditions, inspect_condition, lambda layout: conditions_file(layout).parent),
    final="scores",
    cohort=StepSpec("comparison", 1, f"{_HERE}:run_comparison", (), group="training", stage="compare"),
    goals={"prepare": ("prepare",), "train": ("train",)},
)
