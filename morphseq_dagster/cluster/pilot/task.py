"""Pilot tasks: what the scheduler's answer on a pilot job means for one of the requests that it works on.

A pilot job goes on while its tasks end one after the other, and may end while some were never begun. So the scheduler's
answer is right only for the tasks at work, and the files decide about the others.
"""

from __future__ import annotations

from morphseq_dagster.cluster.attempt_folder import VOID, Attempt
from morphseq_dagster.cluster.commands import Row, Sighting
from morphseq_dagster.cluster.job_files import read_end
from morphseq_dagster.cluster.outcome import Diagnosis, JobOutcome

_PLAIN = ("COMPLETED", "FAILED")
"""States of an allocation that do not explain why a task was ended."""


def own_row(attempt: Attempt, row: Row | Sighting, *, name: str) -> Row | Sighting:
    """Row of an attempt; for a task, whose job has another name, what the row of that job means for it."""
    return row if name == attempt.token or attempt.job is None else row_of_task(attempt, job=attempt.job, row=row)


def row_of_task(attempt: Attempt, *, job: str, row: Row | Sighting) -> Row | Sighting:
    """Make the row that the scheduler would show for a task that had a job of its own.

    Parameters
    ----------
    attempt
        The task.
    job
        Number of its allocation.
    row
        What the scheduler shows of the allocation.
    """
    end = read_end(attempt, job=job)
    if attempt.owner() == VOID:
        state = "CANCELLED" if attempt.cancel_requested else "FAILED"
    elif end is None:
        return row
    elif attempt.cancel_requested:
        state = "CANCELLED"
    elif end.signal == "TERM" and not (isinstance(row, Row) and row.state in _PLAIN):
        return row  # the allocation is about to end, and its state will explain why
    else:
        state = "FAILED" if end.code or end.signal else "COMPLETED"
    node = row.node if isinstance(row, Row) else ""
    return Row(job, attempt.token, state, node=node, exit_code=None if end is None else end.code)


def judge_untouched(attempt: Attempt, *, diagnosis: Diagnosis) -> Diagnosis:
    """Judge a task whose allocation has ended: one that was never begun may be tried again, and no job gets it now.

    Tasks are not tried again by themselves when somebody cancelled the allocation, which means all of it; nor when the
    program of the allocation could not start, and so began none of them: it could not start the next time either.
    """
    if diagnosis.outcome is JobOutcome.DONE or attempt.owner() not in (None, VOID) or not attempt.give_up():
        return diagnosis
    state, words = diagnosis.state, ", ".join(part for part in (diagnosis.state, diagnosis.reason) if part)
    if attempt.cancel_requested:
        return Diagnosis(JobOutcome.CANCELLED, state, "cancelled before it began")
    if diagnosis.outcome in (JobOutcome.CONFIG, JobOutcome.FAILED) and not _has_begun_any(attempt):
        return Diagnosis(JobOutcome.CONFIG, state, f"{diagnosis.reason}: the program of the allocation did not start")
    outcome = JobOutcome.CANCELLED if diagnosis.outcome is JobOutcome.CANCELLED else JobOutcome.VOID
    return Diagnosis(outcome, state, f"never begun; its allocation ended: {words or 'unseen'}")


def _has_begun_any(attempt: Attempt) -> bool:
    pilot = attempt.pilot
    return pilot is not None and any(task.record("start") is not None for task in pilot.tasks())


def is_wanted(pilot: Attempt) -> bool:
    """Whether some task of a pilot job has neither a verdict nor been cancelled; yes when its tasks are not known."""
    tasks = pilot.tasks()
    return not tasks or any(not task.is_closed and not task.cancel_requested for task in reversed(tasks))
