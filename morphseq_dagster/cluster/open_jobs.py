"""Open jobs: cluster jobs that may still be at work on a step, judged from the files below the data root.

A job outlives the process that submitted it and the lock of that process. Hence an executor of this machine is wrapped
(`BesideJobs`) wherever a cluster has ever worked below the data root. The scheduler is not asked here.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from morphseq_dagster.cluster.attempt_folder import Attempt, JobRoot
from morphseq_dagster.cluster.job_files import read_end, read_result
from morphseq_dagster.cluster.outcome import JobOutcome
from morphseq_dagster.cluster.usage import recall_facts
from morphseq_dagster.engine.contract.step import StepRequest, StepSpec
from morphseq_dagster.engine.executors.protocol import Committed, Executed, Executor, Report, stay_silent
from morphseq_dagster.engine.layout import Layout
from morphseq_dagster.engine.storage.records import Record
from morphseq_dagster.errors import TransientError

_END_S: Final = 2.0


def find_open_jobs(layout: Layout, *, step: str, experiment: str) -> list[Attempt]:
    """Find open attempts whose job may be at work; one that ended with code 0 is closed on the way."""
    found = []
    for _, _, attempt in JobRoot(layout.jobs).open_attempts((step, experiment)):
        end = read_end(attempt)
        if end is None or end.code != 0:
            found.append(attempt)
            continue
        kind = JobOutcome.DONE if attempt.path("outcome.json").exists() else JobOutcome.FAILED
        attempt.close(kind=kind, reason="found ended", job=attempt.job or "")
    return found


class BesideJobs:
    """An executor of this machine that keeps off a step while a cluster job may be at work on it.

    Parameters
    ----------
    executor
        What runs a step where no job is in the way.
    """

    def __init__(self, executor: Executor) -> None:
        self.name = executor.name
        self._executor = executor

    def is_at_work(self, layout: Layout, *, step: str, experiment: str) -> bool:
        """Whether a job may be at work on a step."""
        return bool(find_open_jobs(layout, step=step, experiment=experiment))

    def recall(self, layout: Layout, *, record: Record, run_id: str) -> Mapping[str, str | int | float] | None:
        """Facts of the job of a run that published a record; None when none of this run's jobs did."""
        return recall_job(layout, record=record, run_id=run_id)

    def run(self, spec: StepSpec, *, request: StepRequest, progress: Report = stay_silent) -> Executed | Committed:
        """Run a request here.

        Raises
        ------
        TransientError
            When a job may be at work on its step, naming the job's folder.
        """
        jobs = find_open_jobs(Layout(Path(request.data_root)), step=request.step, experiment=request.experiment)
        if jobs:
            raise TransientError(
                expected=f"no cluster job at work on {request.step}",
                found=f"job {jobs[0].job or 'of unknown number'}, which nobody has seen end",
                where=str(jobs[0].folder),
                remedy="run the step at slurm, which takes the job over; `morphseq jobs` shows it. Nothing runs at "
                f"{self.name} beside it",
            )
        return self._executor.run(spec, request=request, progress=progress)


def recall_job(layout: Layout, *, record: Record, run_id: str) -> Mapping[str, str | int | float] | None:
    """Recall the job of a run that published a record; None when none of this run's jobs did.

    So a resumed run takes what the job that it left at work has made for its own result, chained steps included.
    """
    if record.run_id != run_id:
        return None
    group = (record.step, record.experiment)
    for folder in sorted(layout.jobs.joinpath(*group).glob("*/a*")):
        attempt = JobRoot(layout.jobs).attempt(group, key=folder.parent.name, number=int(folder.name[1:]))
        if not attempt.belongs_to(run_id):
            continue
        if not attempt.is_closed and attempt.record("start") is not None:
            _await_end(attempt)  # the result is there, the end record may follow
            find_open_jobs(layout, step=record.step, experiment=record.experiment)
        if read_result(attempt).record == record:
            return recall_facts(attempt)
    return None


def _await_end(attempt: Attempt) -> None:
    deadline = time.monotonic() + _END_S
    while read_end(attempt) is None and time.monotonic() < deadline:
        time.sleep(0.01)
