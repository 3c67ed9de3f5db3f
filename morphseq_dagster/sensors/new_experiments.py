"""Sensor of new experiments: registers what lies in the raw folders, and starts a run when an acquisition has ended.

The decision is a pure function (`decide`), the sensor around it is thin. It is off until you switch it on, and removes
nothing.
"""

# Dagster reads the annotations of the sensor's body at run time, hence no postponed evaluation in this module.
import time
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import dagster as dg
from pydantic import BaseModel, ConfigDict, Field

from morphseq_dagster.engine.pipeline import FoundSource, Pipeline, Source
from morphseq_dagster.engine.planner.plan import find_pending
from morphseq_dagster.engine.storage.hashing import hash_file
from morphseq_dagster.engine.workspace import Workspace
from morphseq_dagster.errors import MorphseqError
from morphseq_dagster.partitions import find_busy, find_registered, partitions_of
from morphseq_dagster.resources.workspace import WorkspaceResource
from morphseq_dagster.sensors.memory import Memory, read_cursor

SENSOR: Final = "new_experiments"
INTERVAL_S: Final = 60
SCAN_S: Final = 30.0
"""Longest time in seconds spent on looking into folders per tick; the daemon ends a tick after 60."""


class Seen(BaseModel):
    """What an experiment looked like when a run was last asked for: fingerprint of the raw folder, workbook's hash."""

    model_config = ConfigDict(frozen=True)

    raw: str
    workbook: str = ""


class Cursor(Memory):
    """What the sensor remembers: experiments dealt with, and where the next scan begins."""

    seen: dict[str, Seen] = Field(default_factory=dict)
    begin: str = ""


@dataclass(frozen=True)
class Workbook:
    """A plate workbook as it is now."""

    sha256: str
    mtime_ns: int


@dataclass(frozen=True)
class Launch:
    """A run to ask for."""

    experiment: str
    run_key: str


@dataclass(frozen=True)
class Decision:
    """What a tick does: partitions to add, runs to ask for, what to remember."""

    additions: tuple[str, ...]
    launches: tuple[Launch, ...]
    seen: Mapping[str, Seen]


def decide(
    found: Sequence[FoundSource],
    *,
    workbooks: Mapping[str, Workbook],
    registered: AbstractSet[str],
    busy: AbstractSet[str],
    seen: Mapping[str, Seen],
) -> Decision:
    """Decide what to add and to run.

    Parameters
    ----------
    found
        Experiments in the raw folders.
    workbooks
        Their workbooks, as far as there are any.
    registered
        Known partitions.
    busy
        Experiments with a run that is queued or at work; they have their turn later.
    seen
        What earlier ticks dealt with.
    """
    usable = [entry for entry in found if entry.state != "refused"]
    additions = tuple(entry.name for entry in usable if entry.name not in registered)
    after, launches = dict(seen), []
    for entry in usable:
        if entry.state != "ready" or entry.name in busy:
            continue
        book = workbooks.get(entry.name)
        now = Seen(raw=entry.fingerprint, workbook=book.sha256 if book is not None else "")
        before = seen.get(entry.name)
        after[entry.name] = now
        if before is None or before.raw != now.raw:
            launches.append(Launch(entry.name, f"raw:{entry.name}:{now.raw}"))
        elif book is not None and before.workbook != now.workbook:
            # With the time in the key, going back to an earlier version of the workbook is news too.
            launches.append(Launch(entry.name, f"workbook:{entry.name}:{now.workbook[:16]}:{book.mtime_ns}"))
    return Decision(additions, tuple(launches), after)


def make_sensor(job: str) -> dg.SensorDefinition:
    """Make the sensor that launches a job."""

    @dg.sensor(
        name=SENSOR,
        job_name=job,
        minimum_interval_seconds=INTERVAL_S,
        default_status=dg.DefaultSensorStatus.STOPPED,
        description="Registers experiments found in the raw folders; runs each when its acquisition has ended, and "
        "again when its raw files or its workbook change.",
    )
    def new_experiments(context: dg.SensorEvaluationContext, workspace: WorkspaceResource) -> dg.SensorResult:
        return _tick(context, workspace=workspace.open())

    return new_experiments


def _tick(context: dg.SensorEvaluationContext, *, workspace: Workspace) -> dg.SensorResult:
    cursor = read_cursor(context.cursor, kind=Cursor)
    folders = workspace.pipeline.find_sources(workspace.layout)
    found, begin = _scan(workspace, folders=folders, begin=cursor.begin)
    decision = decide(
        found,
        workbooks=_hash_workbooks(found),
        registered=find_registered(context.instance, pipeline=workspace.pipeline),
        busy=set(find_busy(context.instance, pipeline=workspace.pipeline)),
        seen=cursor.seen,
    )
    launches = [launch for launch in decision.launches if _has_work(workspace, launch.experiment)]
    names = {folder.name for folder in folders}
    seen = {name: value for name, value in decision.seen.items() if name in names}
    for entry in found:
        if entry.state != "ready":
            context.log.info(f"{entry.name}: {entry.state}, {entry.reason}")
    return dg.SensorResult(
        run_requests=[dg.RunRequest(run_key=launch.run_key, partition_key=launch.experiment) for launch in launches],
        dynamic_partitions_requests=_ask_for_partitions(decision.additions, pipeline=workspace.pipeline),
        cursor=Cursor(seen=seen, begin=begin).model_dump_json(),
        skip_reason=None if launches else dg.SkipReason(f"{len(found)} folders looked at, nothing new to run"),
    )


def _scan(workspace: Workspace, *, folders: Sequence[Source], begin: str) -> tuple[list[FoundSource], str]:
    """Look into the folders from `begin` on, until all are done or time is up; return where to go on."""
    ordered = sorted(folders, key=lambda folder: (folder.name < begin, folder.name))
    found: list[FoundSource] = []
    started = time.monotonic()
    for folder in ordered:
        if found and time.monotonic() - started > SCAN_S:
            return found, folder.name
        if workspace.pipeline.sources is not None:
            found.append(workspace.pipeline.sources.inspect(workspace.layout, folder))
    return found, ""


def _hash_workbooks(found: Sequence[FoundSource]) -> dict[str, Workbook]:
    return {entry.name: book for entry in found if entry.workbook and (book := _hash_workbook(entry.workbook))}


def _hash_workbook(path: Path) -> Workbook | None:
    """Hash a workbook; one that vanished or cannot be read now is looked at again in the next tick."""
    try:
        return Workbook(hash_file(path), path.stat().st_mtime_ns)
    except OSError:
        return None


def _ask_for_partitions(
    names: tuple[str, ...], *, pipeline: Pipeline
) -> list[dg.AddDynamicPartitionsRequest | dg.DeleteDynamicPartitionsRequest]:
    return [partitions_of(pipeline).build_add_request(list(names))] if names else []


def _has_work(workspace: Workspace, experiment: str) -> bool:
    """Whether any step would run; when no plan can be made, the run shows why."""
    try:
        return bool(
            find_pending(workspace, experiment=experiment, steps={spec.name for spec in workspace.pipeline.steps})
        )
    except MorphseqError:
        return True
