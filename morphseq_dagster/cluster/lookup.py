"""Job lookup: asks the scheduler about the jobs of attempts, many in one question.

What follows from the answers is decided in `client.py` and `outcome.py`; the commands themselves are `commands.py`.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from typing import Final

from morphseq_dagster.cluster.attempt_folder import VOID, Attempt
from morphseq_dagster.cluster.commands import Row, Scheduler, Sighting
from morphseq_dagster.cluster.errors import UnreachableError
from morphseq_dagster.cluster.job_files import StateCache, save_end_seen
from morphseq_dagster.cluster.job_handle import JobHandle, SchedulerView
from morphseq_dagster.cluster.outcome import is_active
from morphseq_dagster.cluster.pilot.task import own_row

LOOK_EVERY_S: Final = 2.0
"""Seconds between two questions for a job whose number is not known."""


class JobLookup:
    """Questions about jobs to one cluster.

    Parameters
    ----------
    scheduler
        The cluster's commands.
    """

    def __init__(self, scheduler: Scheduler) -> None:
        self.scheduler = scheduler
        self._states = StateCache()
        self._silent: dict[str, float] = {}

    def find(self, attempt: Attempt) -> str | None:
        """Look for the job of an attempt; None when controller and accounting both answered without it.

        Raises
        ------
        UnreachableError
            When one of them did not answer.
        """
        if attempt.job is not None:
            return attempt.job
        pilot = attempt.pilot
        if pilot is not None:
            # All its tasks are looked for at once, and one answer is for all of them. A given up pilot job gets no job.
            asked = self._silent.get(pilot.token, -LOOK_EVERY_S)
            if pilot.owner() == VOID or time.monotonic() - asked < LOOK_EVERY_S:
                return None
            job = self.find(pilot)
            self._silent[pilot.token] = time.monotonic()
            return job
        row = self.scheduler.queue(names=[attempt.token]).of_name(attempt.token)
        source = "squeue"
        if not isinstance(row, Row):
            reply = self.scheduler.account(names=[attempt.token], since_s=attempt.age_s + 60)
            if reply is None:
                return None
            row, source = reply.of_name(attempt.token), "sacct"
        if not isinstance(row, Row):
            return None
        attempt.write("job", job=row.job, cluster="", t=time.time(), found=source)
        return row.job

    def observe(self, handles: Sequence[JobHandle]) -> dict[str, SchedulerView]:
        """Ask about jobs, by token: all in one squeue, and sacct once for those that it does not show at work."""
        reply = self.scheduler.queue(jobs=list(dict.fromkeys(handle.job for handle in handles)))
        views = {
            one.attempt.token: SchedulerView(own_row(one.attempt, reply.of_job(one.job, name=one.name), name=one.name))
            for one in handles
        }
        for handle in handles:
            self.keep_state(handle.attempt, views[handle.attempt.token].queue)
        over = [handle for handle in handles if not isinstance(views[handle.attempt.token].queue, Row)]
        if not over:
            return views
        with contextlib.suppress(UnreachableError):
            oldest = max(handle.attempt.age_s for handle in over)
            jobs = list(dict.fromkeys(handle.job for handle in over))
            accounts = self.scheduler.account(jobs=jobs, since_s=oldest + 3600)
            if accounts is not None:
                for handle in over:
                    token = handle.attempt.token
                    views[token] = SchedulerView(views[token].queue, accounts.of_job(handle.job, name=handle.name))
        return views

    def keep_state(self, attempt: Attempt, row: Row | Sighting | None) -> None:
        """Keep what the controller shows of an attempt's job, for the time when it does not answer or has forgotten."""
        if isinstance(row, Row):
            (self._states.keep if is_active(row) else save_end_seen)(attempt, row=row)
