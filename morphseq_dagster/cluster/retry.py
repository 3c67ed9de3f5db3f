"""Retries: which ends are worth another attempt, and what it asks for.

A pure table. The caller counts the attempts of its run (`request_job.py`); an error that the step itself raised is
never tried again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Final

from morphseq_dagster.cluster.outcome import JobOutcome
from morphseq_dagster.settings.job_values import Resources

_TRIES: Final = {
    JobOutcome.NODE: 2,
    JobOutcome.PREEMPTED: 2,
    JobOutcome.LOST: 2,
    JobOutcome.CRASH: 1,
    JobOutcome.OOM: 1,
    JobOutcome.TIMEOUT: 1,
    # Nothing ran: a client gave the attempt up before a job had claimed it.
    JobOutcome.VOID: 5,
}


def plan_retry(
    outcome: JobOutcome,
    *,
    earlier: Sequence[JobOutcome],
    resources: Resources,
    node: str = "",
    more_memory: bool = True,
) -> Resources | None:
    """Plan another attempt; None when this end is final.

    Parameters
    ----------
    outcome
        How the last attempt ended.
    earlier
        How the attempts of the same run before it ended.
    resources
        What it had asked for.
    node
        Node that it ran on.
    more_memory
        Whether a job that ran out of memory may ask for twice as much.
    """
    if Counter(earlier)[outcome] >= _TRIES.get(outcome, 0):
        return None
    if outcome is JobOutcome.OOM:
        return resources.with_memory_doubled() if more_memory and resources.memory is not None else None
    if outcome in (JobOutcome.NODE, JobOutcome.CRASH) and node:
        return resources.without_nodes((node,))
    return resources
