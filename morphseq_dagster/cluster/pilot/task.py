"""Tasks of pilot jobs: what the scheduler's word on an allocation means for one of the requests that it works on.

Holds judging by files. An allocation goes on while its tasks end one after the other, and ends while some of them
were never begun; what it says is right for those alone that it had in hand.
"""

from __future__ import annotations

from morphseq_dagster.cluster.attempt_folder import VOID, Attempt
from morphseq_dagster.cluster.commands import Row, Sighting
from morphseq_dagster.cluster.outcome import Diagnosis, End, JobOutcome

_PLAIN = ("COMPLETED", "FAILED")
"""States of an allocation that say nothing of why a task was ended."""


def row_of_task(attempt: Attempt, *, job: str, end: End | None, row: Row | Sighting) -> Row | Sighting:
    """Say of a task what the scheduler would, had it a job of its own.

    Parameters
    ----------
    attempt
        The task.
    job
        Number of its allocation.
    end
        Its end record, written by this job.
    row
        What the scheduler says of the allocation.
    """
    wished_away = attempt.record("cancel") is not None
    if attempt.owner() == VOID:
        state = "CANCELLED" if wished_away else "FAILED"
    elif end is None:
        return row
    elif wished_away:
        state = "CANCELLED"
    elif end.signal == "TERM" and not (isinstance(row, Row) and row.state in _PLAIN):
        return row  # the allocation is on its way to an end, and will say which
    else:
        state = "FAILED" if end.code or end.signal else "COMPLETED"
    node = row.node if isinstance(row, Row) else ""
    return Row(job, attempt.token, state, node=node, exit_code=None if end is None else end.code)


def judge_untouched(attempt: Attempt, *, diagnosis: Diagnosis) -> Diagnosis:
    """Judge a task whose allocation has ended: one that was never begun may be tried again, and no job gets it now.

    Who cancels an allocation wants none of it, hence its tasks are not tried again by themselves. Nor are those of an
    allocation whose own program could not start, and that came to none of them: it would not the next time.
    """
    if diagnosis.outcome is JobOutcome.DONE or attempt.owner() not in (None, VOID) or not attempt.give_up():
        return diagnosis
    why = f"never begun; its allocation ended: {', '.join(w for w in (diagnosis.state, diagnosis.reason) if w) or 'unseen'}"
    if attempt.record("cancel") is not None:
        return Diagnosis(JobOutcome.CANCELLED, diagnosis.state, "cancelled before it began")
    if diagnosis.outcome is JobOutcome.CANCELLED:
        return Diagnosis(JobOutcome.CANCELLED, diagnosis.state, why)
    if diagnosis.outcome in (JobOutcome.CONFIG, JobOutcome.FAILED) and not _has_begun_any(attempt):
        return Diagnosis(
            JobOutcome.CONFIG, diagnosis.state, f"{diagnosis.reason}: the program of the allocation did not start"
        )
    return Diagnosis(JobOutcome.VOID, diagnosis.state, why)


def _has_begun_any(attempt: Attempt) -> bool:
    pilot = attempt.pilot
    return pilot is not None and any(task.record("start") is not None for task in pilot.tasks())


def is_wanted(pilot: Attempt) -> bool:
    """Whether some task of a pilot job has neither a verdict nor been cancelled; yes when nobody knows its tasks."""
    tasks = pilot.tasks()
    return not tasks or any(not m.is_closed and m.record("cancel") is None for m in reversed(tasks))
