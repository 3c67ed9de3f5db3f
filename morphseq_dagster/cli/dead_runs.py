"""Dead runs: runs that Dagster believes at work although their process is gone; a killed command leaves one for ever.

Holds finding and ending them. A run is dead when its process, named by its tag or its first events, is gone from this
host.
"""

from __future__ import annotations

import dagster as dg
from dagster import DagsterEventType

from morphseq_dagster.cli.launch import PROCESS_TAG
from morphseq_dagster.storage.claims import process_start
from morphseq_dagster.storage.durable import host_name

_AT_WORK = (dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING)


def find_dead_runs(instance: dg.DagsterInstance) -> tuple[dg.DagsterRun, ...]:
    """Find the runs whose process is proven gone."""
    records = instance.get_run_records(dg.RunsFilter(statuses=list(_AT_WORK)))
    return tuple(record.dagster_run for record in records if _is_dead(instance, record.dagster_run))


def end_dead_run(instance: dg.DagsterInstance, run: dg.DagsterRun) -> None:
    """Mark a dead run as cancelled, so that nothing starts it again, and free its slots in the pools."""
    instance.report_run_canceled(run, message="The process of this run is gone (morphseq doctor).")
    instance.event_log_storage.free_concurrency_slots_for_run(run.run_id)


def _is_dead(instance: dg.DagsterInstance, run: dg.DagsterRun) -> bool:
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
