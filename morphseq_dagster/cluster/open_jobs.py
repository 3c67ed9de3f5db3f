"""Attempts: cluster jobs that may still be at work on a step, as the files below the data root tell.

Holds what every place must know before it touches a step: a job outlives the process that submitted it, and with it the
claim of that process. Asks no scheduler.
"""

from __future__ import annotations

import time
from typing import Final

from morphseq_dagster.cluster.attempt_folder import Attempt, JobRoot
from morphseq_dagster.cluster.job_files import read_end
from morphseq_dagster.cluster.outcome import JobOutcome
from morphseq_dagster.cluster.usage import JobFacts, recall_facts
from morphseq_dagster.engine.contract.step import StepRequest
from morphseq_dagster.engine.executors.runner_outcome import read_outcome
from morphseq_dagster.engine.layout import Layout
from morphseq_dagster.engine.storage.records import Record
from morphseq_dagster.errors import TransientError

_END_S: Final = 2.0


def find_open_jobs(layout: Layout, *, step: str, experiment: str) -> list[Attempt]:
    """Find attempts without a verdict whose job may be at work; one that ended in peace is closed on the way."""
    found = []
    for _, _, attempt in JobRoot(layout.jobs).open_attempts((step, experiment)):
        end = read_end(attempt, job=attempt.job or "")
        if end is None or end.code != 0:
            found.append(attempt)
            continue
        kind = JobOutcome.DONE if attempt.path("outcome.json").exists() else JobOutcome.FAILED
        attempt.close(kind=kind.value, state="", reason="found ended", job=attempt.job or "")
    return found


def refuse_beside_jobs(layout: Layout, *, request: StepRequest, place: str) -> None:
    """Refuse to run a step here while a cluster job may be at work on it.

    Raises
    ------
    TransientError
        Naming the job's folder.
    """
    attempts = find_open_jobs(layout, step=request.step, experiment=request.experiment)
    if attempts:
        raise TransientError(
            expected=f"no cluster job at work on {request.step}",
            found=f"job {attempts[0].job or 'of unknown number'}, which nobody has seen end",
            where=str(attempts[0].folder),
            remedy=f"run the step at slurm, which takes the job over; `morphseq jobs` shows it; {place} keeps out",
        )


def recall_job(layout: Layout, *, record: Record, run_id: str) -> JobFacts | None:
    """Recall the job of a run that published a record; None when none of this run's jobs did.

    A run that was resumed finds the result of the job that it had left at work, and a run whose job went on by itself
    what that has made: its own doing, no memory of another's.
    """
    if record.run_id != run_id:
        return None
    group = (record.step, record.experiment)
    for folder in sorted(layout.jobs.joinpath(*group).glob("*/a*")):
        attempt = JobRoot(layout.jobs).attempt(group, key=folder.parent.name, number=int(folder.name[1:]))
        if (attempt.record("intent") or {}).get("run_id") != run_id:
            continue
        if not attempt.is_closed and attempt.record("start") is not None:
            _await_end(attempt)  # between the result and what the job says of itself
            find_open_jobs(layout, step=record.step, experiment=record.experiment)
        if read_outcome(attempt.path("outcome.json")).record == record:
            return recall_facts(attempt)
    return None


def _await_end(attempt: Attempt) -> None:
    deadline = time.monotonic() + _END_S
    while read_end(attempt, job=attempt.job or "") is None and time.monotonic() < deadline:
        time.sleep(0.01)
