"""Fabricated experiments: raw folder, inputs, and for every step a trivial output with a record that answers.

For tests and measurements of what reads records - planner, status, cohort - at a thousand experiments, where computing
even one would take longer than the test. Bodies of steps never run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from morphseq_dagster.engine.contract.step import StepRequest, StepSpec
from morphseq_dagster.engine.layout import COHORT, Layout
from morphseq_dagster.engine.storage.hashing import hash_bytes
from morphseq_dagster.engine.storage.records import Record, WellState, describe_output, encode
from morphseq_dagster.engine.workspace import Workspace
from morphseq_dagster.morphseq.paths import raw_folder, workbook_folders

MADE_AT = "2026-01-01T00:00:00.000+00:00"
"""When every fabricated artifact was made."""


def name_experiments(count: int) -> tuple[str, ...]:
    """Names of `count` experiments, all of one day."""
    return tuple(f"20240418_e{number:04d}" for number in range(count))


def fabricate_inputs(layout: Layout, experiment: str) -> None:
    """Write a raw folder of two files and a workbook; their content is not what their names say."""
    folder = raw_folder(layout, "Frames", experiment=experiment)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "frames.csv").write_text("well,time_int,time_s,path,um_per_px\nA01,0,0,a.png,\n")
    (folder / "a.png").write_bytes(b"a")
    (folder / "acquisition_complete").touch()
    workbook = workbook_folders(layout)[0] / f"{experiment}_well_metadata.xlsx"
    workbook.parent.mkdir(parents=True, exist_ok=True)
    workbook.write_bytes(f"workbook of {experiment}".encode())


def fabricate_experiment(
    workspace: Workspace, experiment: str, *, steps: Sequence[str] | None = None, wells: int = 0
) -> None:
    """Write inputs, outputs and records of one experiment.

    Parameters
    ----------
    workspace
        Data root and pipeline.
    experiment
        Name.
    steps
        Steps to fabricate, with every step its ancestors; all when None.
    wells
        Wells that the records of image sets carry.
    """
    fabricate_inputs(workspace.layout, experiment)
    states = {f"{'ABCDEFGH'[n // 12]}{n % 12 + 1:02d}": WellState(key="0" * 64, status="ok") for n in range(wells)}
    for spec in workspace.pipeline.steps:
        if steps is None or spec.name in steps:
            fabricate_step(workspace, spec, experiment=experiment, wells=states)


def fabricate_cohort(workspace: Workspace) -> Record:
    """Write the cohort's table, of whatever content, with a record that answers for the final tables as they are."""
    spec = workspace.pipeline.spec("cohort_final")
    request = workspace.request(spec, experiment=COHORT, run_id="fabricated")
    return fabricate_step(workspace, spec, experiment=COHORT, request=request)


def fabricate_step(
    workspace: Workspace,
    spec: StepSpec,
    *,
    experiment: str,
    content: str = "",
    wells: Mapping[str, WellState] | None = None,
    request: StepRequest | None = None,
) -> Record:
    """Write output and record of one step, answering the request that it would run with now.

    Parameters
    ----------
    workspace, spec, experiment
        What to fabricate.
    content
        Content of the output, by which its version differs.
    wells
        States of wells in the record of an image set.
    request
        What the record answers; the step's ordinary request when None.
    """
    layout = workspace.layout
    request = request or workspace.request(spec, experiment=experiment)
    primary = layout.absolute(request.output)
    data = (content or f"{spec.name} of {experiment}").encode()
    folders = layout.folders(spec.name, experiment=experiment)
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "picture.jpg").write_bytes(data)
    _replace(primary, data)
    record = Record(
        step=spec.name,
        experiment=experiment,
        data_version=hash_bytes(data),
        output=describe_output(
            layout,
            primary=primary,
            staged_primary=primary,
            sha256=hash_bytes(data),
            folders=tuple((folder, folder) for folder in folders),
        ),
        inputs=request.inputs,
        step_version=request.version,
        recipe=request.recipe,
        recipe_hash=request.recipe_hash,
        request_key=request.key,
        counts={"rows": 10} if not folders else {"files": len(folders)},
        wells=dict(wells or {}) if folders else {},
        run_id="fabricated",
        place="process",
        host="nowhere",
        pid=1,
        started_at=MADE_AT,
        finished_at=MADE_AT,
        seconds=2.0,
        cpu_seconds=2.0,
    )
    _replace(layout.record(primary), encode(record))
    return record


def _replace(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
