"""Experiments for tests: small plates with known truth, the whole chain run on them, and what it published.

People's and disks' edits to inputs are here too. `testing/chain.py` runs the toy pipeline in the same way.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from morphseq_dagster.demo.plan import PlatePlan, WellPlan
from morphseq_dagster.demo.plate import make_plate
from morphseq_dagster.demo.truth import PlateTruth
from morphseq_dagster.engine.executors.protocol import Executor
from morphseq_dagster.engine.locked_step import finish, lock_step
from morphseq_dagster.engine.storage.file_lists import list_tree
from morphseq_dagster.engine.storage.records import Record
from morphseq_dagster.engine.workspace import Workspace
from morphseq_dagster.morphseq.pipeline import MORPHSEQ
from tests.support.frames_plate import FRAMES_PLATE, TINY_PLATE, make_frames_plate

FRAMES_EXPERIMENT = "20250529_ctrl"
"""Name of the small experiment of single pictures."""
KEYENCE_EXPERIMENT = "20240418_tiny"
"""Name of the small Keyence experiment."""
REGISTRY_NAME = "morphseq_dagster.morphseq.pipeline:MORPHSEQ"
"""Name of the project's pipeline as the commands want it."""
STEPS = tuple(spec.name for spec in MORPHSEQ.steps)
"""Names of all steps in their order."""
FRAMES_WELLS: tuple[WellPlan, ...] = FRAMES_PLATE.wells
"""Wells of the small experiment: A01 in a chorion, A02 without one, A03 empty."""


@dataclass(frozen=True)
class ChainRun:
    """What one run of the chain did.

    Parameters
    ----------
    records
        Record per step that stands published.
    computed
        Steps that were computed, in order; the others were found unchanged.
    errors
        Step to the error that ended it.
    blocked
        Steps not begun, because one before them failed.
    """

    records: Mapping[str, Record]
    computed: tuple[str, ...]
    errors: Mapping[str, Exception]
    blocked: tuple[str, ...]

    def wells_computed(self) -> dict[str, int]:
        """Wells computed by each computed step that works well by well."""
        counts = {step: self.records[step].counts.get("wells_computed") for step in self.computed}
        return {step: count for step, count in counts.items() if count is not None}


def open_data_root(data_root: Path) -> Workspace:
    """Open a data root of the project's pipeline."""
    return Workspace(data_root, MORPHSEQ)


def make_small_frames(
    data_root: Path,
    *,
    experiment: str = FRAMES_EXPERIMENT,
    wells: tuple[WellPlan, ...] = FRAMES_WELLS,
    times: int = 3,
    seed: int = 20240419,
) -> PlateTruth:
    """Make an experiment of single pictures in a fifth of a second; its truth lies beside the data root.

    A plan with one more well has the same pictures for the others; with one more time it has not.
    """
    plan: PlatePlan = replace(FRAMES_PLATE, wells=wells, times=times)
    return make_frames_plate(
        data_root, truth_folder=truth_folder(data_root, experiment), experiment=experiment, plan=plan, seed=seed
    )


def make_tiny_keyence(data_root: Path, *, experiment: str = KEYENCE_EXPERIMENT) -> PlateTruth:
    """Make a Keyence experiment of two wells, two times, two tiles and three planes."""
    return make_plate(
        data_root, truth_folder=truth_folder(data_root, experiment), experiment=experiment, plan=TINY_PLATE
    )


def truth_folder(data_root: Path, experiment: str) -> Path:
    """Where the makers here lay the truth of an experiment."""
    return data_root.parent / "truth" / experiment


def run_experiment(
    workspace: Workspace,
    experiment: str,
    *,
    until: str | None = None,
    place: Executor | None = None,
    force: bool = False,
    keep_going: bool = False,
    run_id: str = "test",
) -> ChainRun:
    """Run the steps of an experiment in their order.

    Parameters
    ----------
    workspace, experiment
        What to run.
    until
        Last step wanted: only it and what it needs are run.
    place
        Where; this process unless given.
    force
        Compute although nothing changed.
    keep_going
        Collect errors and run whatever does not need the failed step, instead of raising the first.
    run_id
        Written into the records.
    """
    wanted = workspace.pipeline.ancestors({until}) if until is not None else set(STEPS)
    records: dict[str, Record] = {}
    computed: list[str] = []
    errors: dict[str, Exception] = {}
    blocked: list[str] = []
    for spec in workspace.pipeline.steps:
        if spec.name not in wanted:
            continue
        if set(spec.inputs) & {*errors, *blocked}:
            blocked.append(spec.name)
            continue
        try:
            with lock_step(
                spec, workspace=workspace, experiment=experiment, run_id=run_id, executor=place, force=force
            ) as session:
                if session.cached is not None:
                    records[spec.name] = session.cached
                    continue
                records[spec.name] = finish(workspace.layout, outcome=session.run())
                computed.append(spec.name)
        except Exception as error:
            if not keep_going:
                raise
            errors[spec.name] = error
    return ChainRun(records, tuple(computed), errors, tuple(blocked))


def read_artifacts(workspace: Workspace, experiment: str) -> dict[str, bytes]:
    """Bytes of every published file of an experiment by its path below the data root.

    Without provenance and without the raw manifest: both carry times, and no comparison of bytes is promised for them.
    """
    found: dict[str, bytes] = {}
    for spec in workspace.pipeline.steps:
        primary = workspace.output(spec, experiment=experiment)
        if spec.name == "raw_manifest" or not primary.exists():
            continue
        found[workspace.layout.relative(primary)] = primary.read_bytes()
        for folder in workspace.layout.folders(spec.name, experiment=experiment):
            if folder.is_dir():
                found |= {workspace.layout.relative(path): path.read_bytes() for path, _ in list_tree(folder)}
    return found


def workbook_path(data_root: Path, experiment: str) -> Path:
    """Plate workbook of an experiment made here."""
    return data_root / "metadata" / "well_metadata" / f"{experiment}_well_metadata.xlsx"


def edit_workbook(path: Path, *, sheet: str, well: str, value: str | float | None) -> None:
    """Set one cell of a plate workbook, as a person does."""
    import openpyxl

    book = openpyxl.load_workbook(path)
    book[sheet].cell(row="ABCDEFGH".index(well[0]) + 2, column=int(well[1:]) + 1).value = value
    book.save(path)


def change_pixel(path: Path) -> None:
    """Change one grey level in the middle of an uncompressed picture; size and both ends of the file stay the same."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))
