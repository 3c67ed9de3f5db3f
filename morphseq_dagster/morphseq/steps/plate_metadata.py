"""Step `plate_metadata`: the plate workbook as a checked table.

The workbook is read in `plate`.
"""

from __future__ import annotations

from morphseq_dagster.engine.contract.context import Account, StepContext
from morphseq_dagster.engine.contract.step import StepResult
from morphseq_dagster.errors import PermanentError
from morphseq_dagster.morphseq.contracts.plate_metadata import CONTRACT
from morphseq_dagster.plate.workbook import read_plate_workbook


def run(context: StepContext) -> StepResult:
    """Read the workbook; a cell that cannot be used is an error, named with its sheet."""
    path = context.external("plate_workbook")
    if path is None:
        raise PermanentError(
            expected="a plate workbook",
            found="none",
            where=f"{context.experiment}_well_metadata.xlsx",
            remedy="put it below metadata/well_metadata; frames, detection and masks run without it",
        )
    plate = read_plate_workbook(path)
    if plate.problems:
        raise PermanentError(
            expected="cells that hold what their sheet asks for",
            found="; ".join(str(problem) for problem in plate.problems),
            where=context.input("plate_workbook").path,
            remedy="correct the named cells in the workbook",
        )
    frame = plate.to_frame().drop(columns="temperature_source")
    frame.insert(0, "experiment_id", context.experiment)
    warnings = [f"sheet {name} is missing: its column is null" for name in plate.missing_sheets]
    warnings += [f"sheet {name} is no 8 x 12 grid and was left out" for name in plate.ignored_sheets]
    return context.stage_table(frame, contract=CONTRACT, account=Account(warnings=tuple(warnings)))
