"""Dead runs: runs that Dagster believes at work although their process is gone; a killed command leaves one for ever.

They are found and ended here, with the slots of pools that they hold; what makes a run dead is `runs/states.py`. The
slots of a run that has ended otherwise, or that was deleted, are held by nobody either: a step gives its slot back
before its run ends.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import dagster as dg

from morphseq_dagster.runs.states import AT_WORK, has_lost_process


@dataclass(frozen=True)
class DeadSlot:
    """Place in a pool that nobody will give back.

    Parameters
    ----------
    pool
        Name of the pool.
    run_id, step
        Who holds it.
    partition
        Experiment of the run; empty when it has none or is not known any more.
    waits
        Whether it is a place in the queue for a slot and not the slot itself.
    reason
        Why nobody will give it back.
    """

    pool: str
    run_id: str
    step: str
    partition: str
    waits: bool
    reason: str

    def describe(self) -> str:
        """Say it in one line."""
        place = "a place in the queue" if self.waits else "a slot"
        whose = ", ".join(text for text in (self.partition, self.step) if text)
        return f"{place} of the pool {self.pool} is held by run {self.run_id} ({whose}), {self.reason}"


def find_dead_slots(instance: dg.DagsterInstance) -> tuple[DeadSlot, ...]:
    """Find the slots, and places in the queue for one, of runs that are dead, ended or unknown."""
    storage = instance.event_log_storage
    if not storage.supports_global_concurrency_limits:
        return ()
    dead = {run.run_id for run in find_dead_runs(instance)}
    return tuple(slot for pool in sorted(storage.get_concurrency_keys()) for slot in _look(instance, pool, dead=dead))


def free_slots(instance: dg.DagsterInstance, run_id: str) -> None:
    """Free every slot of a run, in all pools, and its places in their queues."""
    instance.event_log_storage.free_concurrency_slots_for_run(run_id)


def _look(instance: dg.DagsterInstance, pool: str, *, dead: set[str]) -> Iterator[DeadSlot]:
    info = instance.event_log_storage.get_concurrency_info(pool)
    held = [(slot.run_id, slot.step_key, False) for slot in info.claimed_slots]
    taken = {(run_id, step) for run_id, step, _ in held}
    # A step that has its slot stands in the queue as well, as assigned.
    held += [(s.run_id, s.step_key, True) for s in info.pending_steps if (s.run_id, s.step_key) not in taken]
    for run_id, step, waits in held:
        run = instance.get_run_by_id(run_id)
        if run is None:
            yield DeadSlot(pool, run_id, step, "", waits, "which nobody knows any more")
        elif run_id in dead or run.is_finished:
            reason = "whose process is gone" if run_id in dead else f"which has ended ({run.status.value.lower()})"
            yield DeadSlot(pool, run_id, step, run.tags.get("dagster/partition", ""), waits, reason)


def find_dead_runs(instance: dg.DagsterInstance) -> tuple[dg.DagsterRun, ...]:
    """Find the runs whose process is proven gone."""
    records = instance.get_run_records(dg.RunsFilter(statuses=list(AT_WORK)))
    return tuple(record.dagster_run for record in records if has_lost_process(instance, record.dagster_run))


def end_dead_run(instance: dg.DagsterInstance, run: dg.DagsterRun) -> None:
    """Mark a dead run as cancelled, so that nothing starts it again, and free its slots in the pools."""
    instance.report_run_canceled(run, message="The process of this run is gone (morphseq doctor).")
    free_slots(instance, run.run_id)
