"""Status: one row per experiment with the columns that the pipeline names, what could not be read, and totals.

The states come from `snapshot.py`; the command line shows the table.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from morphseq_dagster.engine.pipeline import KeyRule, Pipeline, Source
from morphseq_dagster.engine.planner.scans import open_budgeted
from morphseq_dagster.engine.planner.snapshot import (
    ArtifactStatus,
    ExperimentSnapshot,
    RemoteWork,
    find_recorded,
    take_snapshot,
)
from morphseq_dagster.engine.workspace import Workspace
from morphseq_dagster.errors import PermanentError, name_some

SCHEMA: Final = "morphseq.status"
SCHEMA_VERSION: Final = 4
_DONE: Final = ("ok", "degraded", "unavailable", "pruned")


@dataclass(frozen=True)
class StatusRow:
    """One experiment.

    Parameters
    ----------
    experiment, kind
        Name, and what supplies its input (the microscope); empty when that is gone.
    columns
        Cell per column.
    cells
        Cell per step, those without a column included.
    """

    experiment: str
    kind: str
    columns: Mapping[str, ArtifactStatus]
    cells: Mapping[str, ArtifactStatus]


@dataclass(frozen=True)
class StageTotal:
    """One column over all experiments: how many are done, and how many wait here with everything before it done."""

    column: str
    done: int
    total: int
    stuck: int

    @property
    def percent(self) -> float:
        """Share of the experiments that are done."""
        return 100.0 * self.done / self.total if self.total else 0.0


@dataclass(frozen=True)
class StatusTable:
    """All rows with what was refused and what could not be read.

    Parameters
    ----------
    columns
        Names of the columns in order.
    rows
        One per experiment, sorted by name.
    refused
        Raw folders whose name cannot be an experiment, each with the reason.
    relied, skipped
        Folders judged by the last scan, and those not looked into, because there are too many files for a quick look.
    """

    columns: tuple[str, ...]
    rows: tuple[StatusRow, ...]
    refused: tuple[tuple[str, str], ...]
    relied: int = 0
    skipped: int = 0

    @property
    def unreadable(self) -> tuple[tuple[str, ArtifactStatus], ...]:
        """Experiment and cell of everything that could not be read."""
        return self.having("error")

    def having(self, *states: str) -> tuple[tuple[str, ArtifactStatus], ...]:
        """Experiment and cell of every step in one of the states."""
        return tuple((row.experiment, cell) for row in self.rows for cell in row.cells.values() if cell.state in states)

    def total(self, column: str) -> Counter[str]:
        """Number of experiments per state of one column."""
        return Counter(row.columns[column].state for row in self.rows)

    def cohort(self) -> tuple[StageTotal, ...]:
        """How far the experiments have come, per column."""
        stuck = Counter(_first_unfinished(row) for row in self.rows)
        return tuple(
            StageTotal(
                column,
                done=sum(row.columns[column].state in _DONE for row in self.rows),
                total=len(self.rows),
                stuck=stuck[column],
            )
            for column in self.columns
        )

    def bottleneck(self) -> StageTotal | None:
        """Column at which most experiments are held up; None when all are through."""
        stages = [stage for stage in self.cohort() if stage.stuck]
        return max(stages, key=lambda stage: stage.stuck) if stages else None


def read_status(
    workspace: Workspace,
    *,
    experiments: Sequence[str] | None = None,
    model: str | None = None,
    remote: Mapping[tuple[str, str], RemoteWork] | None = None,
) -> StatusTable:
    """Read the status of all experiments, or of those named.

    Parameters
    ----------
    workspace
        Data root and pipeline.
    experiments
        Names; None takes every raw folder and everything that has records.
    model
        Latent model to look at instead of the one of each recipe.
    remote
        Work that goes on without a process here, by step and experiment.

    Raises
    ------
    PermanentError
        When a named experiment has neither a raw folder nor records; all are named.
    """
    pipeline = workspace.pipeline
    folders = {source.name: source for source in pipeline.find_sources(workspace.layout)}
    known = sorted(name for name in {*folders, *find_recorded(workspace)} if pipeline.keys.refuse(name) is None)
    if experiments is None:
        chosen = known
        refused = tuple((name, folder.reason) for name, folder in folders.items() if name not in known)
    else:
        chosen, refused = list(dict.fromkeys(experiments)), ()
        refuse_unknown(chosen, keys=pipeline.keys, known=known)
    variants = _variants(pipeline, model=model)
    columns = choose_columns(pipeline)
    scans = open_budgeted(workspace.layout)
    snapshots = take_snapshot(workspace, experiments=chosen, variants=variants, scans=scans, remote=remote)
    rows = tuple(
        _make_row(snapshot, pipeline=pipeline, source=folders.get(snapshot.experiment), columns=columns)
        for snapshot in snapshots
    )
    return StatusTable(tuple(columns), rows, refused, len(scans.relied), len(scans.skipped))


def refuse_unknown(names: Sequence[str], *, keys: KeyRule, known: Sequence[str]) -> None:
    """Refuse names that no raw folder and no record carries.

    Raises
    ------
    PermanentError
        Naming all of them, with the reason of those that could not be a name at all.
    """
    unknown = [name for name in names if name not in known]
    if not unknown:
        return
    described = [f"{name!r}" + (f" ({reason})" if (reason := keys.refuse(name)) else "") for name in unknown]
    raise PermanentError(
        expected="experiments that exist",
        found=name_some(described, most=12),
        where="--experiments",
        remedy="`morphseq experiments` lists all names",
    )


def choose_columns(pipeline: Pipeline) -> dict[str, str]:
    """Columns of a pipeline with their steps; one that names no columns shows each step by its name."""
    columns = {artifact.column: artifact.name for artifact in pipeline.artifacts if artifact.column}
    return columns or {name.upper(): name for name in pipeline.step_names}


def encode_status(status: StatusTable, *, data_root: str) -> dict[str, Any]:
    """Turn a status into JSON values; raise `SCHEMA_VERSION` with every change of their meaning."""
    return {
        "schema": SCHEMA,
        "version": SCHEMA_VERSION,
        "data_root": data_root,
        "columns": list(status.columns),
        "experiments": {
            row.experiment: {
                "microscope": row.kind,
                "columns": {name: cell.state for name, cell in row.columns.items()},
                "steps": {name: _encode_cell(cell) for name, cell in row.cells.items()},
            }
            for row in status.rows
        },
        "refused": [{"name": name, "reason": reason} for name, reason in status.refused],
        "unreadable": [
            {"experiment": experiment, "step": cell.step, "reason": cell.reason}
            for experiment, cell in status.unreadable
        ],
        "totals": {column: dict(sorted(status.total(column).items())) for column in status.columns},
        "cohort": [
            {"column": s.column, "done": s.done, "total": s.total, "percent": round(s.percent, 1), "stuck": s.stuck}
            for s in status.cohort()
        ],
        "bottleneck": bottleneck.column if (bottleneck := status.bottleneck()) is not None else None,
        "folders_by_last_scan": status.relied,
        "folders_not_looked_into": status.skipped,
    }


def _encode_cell(cell: ArtifactStatus) -> dict[str, Any]:
    values = {"state": cell.state, "reason": cell.reason, "rows": cell.rows, "finished_at": cell.finished_at}
    return values | {"job": cell.job}


def _variants(pipeline: Pipeline, *, model: str | None) -> dict[str, str]:
    return {} if model is None else {spec.name: model for spec in pipeline.steps if spec.variant is not None}


def _first_unfinished(row: StatusRow) -> str:
    """First column that is not done; empty when all are."""
    return next((name for name, cell in row.columns.items() if cell.state not in _DONE), "")


def _make_row(
    snapshot: ExperimentSnapshot, *, pipeline: Pipeline, source: Source | None, columns: Mapping[str, str]
) -> StatusRow:
    cells = dict(snapshot.cells)
    if pipeline.listing and pipeline.sources is not None:
        cells[pipeline.listing] = _judge_source(cells[pipeline.listing], source=source)
    chosen = {column: cells[step] for column, step in columns.items()}
    return StatusRow(snapshot.experiment, source.kind if source is not None else "", chosen, cells)


def _judge_source(cell: ArtifactStatus, *, source: Source | None) -> ArtifactStatus:
    """Combine the raw folder itself with its listing: raw data that nobody has listed yet are there all the same."""
    if source is not None and source.reason:
        return ArtifactStatus(cell.step, "error", source.reason)
    if source is None:
        return ArtifactStatus(cell.step, "missing", "no raw folder")
    if cell.state != "missing":
        return cell
    try:
        with os.scandir(source.path) as entries:
            empty = next(entries, None) is None
    except OSError as error:
        return ArtifactStatus(cell.step, "error", f"{type(error).__name__}: {error}")
    if empty:
        return ArtifactStatus(cell.step, "missing", "the raw folder is empty")
    return ArtifactStatus(cell.step, "ok", "not listed yet")
