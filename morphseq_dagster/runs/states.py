"""Run states: whether a run of Dagster is at work, cancelled or over, whatever Dagster itself still believes.

A run is dead when its process, named by its tag or its first events, is gone from this host. A suspended run has no
process and is alive.
"""

from __future__ import annotations

from typing import Final

import dagster as dg
from dagster import DagsterEventType

from morphseq_dagster.engine.executors.protocol import RunStanding
from morphseq_dagster.engine.storage.atomic_io import host_name
from morphseq_dagster.engine.storage.step_locks import process_start

PROCESS_TAG: Final = "morphseq/process"
"""Host, process and its start, so that a run whose process was killed can be told from one at work."""
AT_WORK: Final = (dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING)
"""States in which a run has a process, or is suspended."""


def state_of_run(instance: dg.DagsterInstance, run_id: str) -> RunStanding:
    """How a run stands; `unknown` when this instance has no such run."""
    record = instance.get_run_record_by_id(run_id) if run_id else None
    if record is None:
        return RunStanding("unknown")
    run = record.dagster_run
    if run.status is dg.DagsterRunStatus.CANCELED:
        return RunStanding("canceled", record.end_time)
    if run.is_finished:
        return RunStanding("over", record.end_time)
    if run.status in AT_WORK and has_lost_process(instance, run):
        return RunStanding("canceled" if run.status is dg.DagsterRunStatus.CANCELING else "over")
    return RunStanding("live")


def has_lost_process(instance: dg.DagsterInstance, run: dg.DagsterRun) -> bool:
    """Whether the process of a run at work is proven gone, and nobody will start another one for it."""
    launcher = instance.run_launcher
    cares_for = getattr(launcher, "cares_for", None)
    if cares_for is not None and cares_for(run.run_id):
        return False  # it waits for a job without a process, or is about to get another one
    tag = run.tags.get(PROCESS_TAG)
    if tag is not None:
        host, pid, start = tag.split(":")
        return host == host_name() and process_start(int(pid)) not in (start, "unknown")
    pids = _find_processes(instance, run.run_id)
    # Dagster notes no host; its home lies on a local disk, hence the processes were this host's.
    return bool(pids) and all(process_start(pid) == "" for pid in pids)


def _find_processes(instance: dg.DagsterInstance, run_id: str) -> set[int]:
    """Numbers of the processes that Dagster's own events name."""
    pids: set[int] = set()
    for entry in instance.all_logs(run_id, of_type=DagsterEventType.ENGINE_EVENT):
        event = entry.dagster_event
        value = event.engine_event_data.metadata.get("pid") if event is not None else None
        text = str(value.value) if value is not None else ""
        if text.isdigit():
            pids.add(int(text))
    return pids
