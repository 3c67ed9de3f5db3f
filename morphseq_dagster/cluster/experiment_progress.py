"""Experiment progress: how far one experiment is in a bulk run, and the events that the run reports of it.

What happens next, and in what order among many experiments, is decided in `bulk_run.py`.
"""

from __future__ import annotations

import time
from collections import deque
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Final

from morphseq_dagster.cluster.connection import log
from morphseq_dagster.cluster.job_handle import JobHandle
from morphseq_dagster.cluster.poller import Watch
from morphseq_dagster.cluster.request_job import RequestJob
from morphseq_dagster.engine.executors.protocol import Committed, Executed, Executor
from morphseq_dagster.engine.storage.records import Record
from morphseq_dagster.engine.storage.step_locks import StepLock

_AGAIN_S: Final = 2.0


@dataclass(frozen=True)
class StepMade:
    """A step that was made, published and verified; its lock is held until the next event is asked for.

    `recalled` when a job of this very run made it while no process of the run was there.
    """

    experiment: str
    step: str
    outcome: Executed | Committed
    record: Record
    recalled: bool = False


@dataclass(frozen=True)
class StepUpToDate:
    """A step of which nothing had changed; it has no outcome."""

    experiment: str
    step: str
    record: Record
    outcome: None = None
    recalled: bool = False


@dataclass(frozen=True)
class StepFailed:
    """A step that failed, with the steps after it that were not tried."""

    experiment: str
    step: str
    error: Exception
    untried: tuple[str, ...] = ()


Event = StepMade | StepUpToDate | StepFailed


class BusyError(Exception):
    """Somebody else holds the lock of a step."""

    def __init__(self, lock: StepLock) -> None:
        super().__init__(lock.holder())


@dataclass(eq=False)
class ExperimentProgress:
    """The steps that an experiment has to go through, and how far the first of them is.

    Parameters
    ----------
    experiment, steps
        Which, and its steps.
    held
        Lock of the first step.
    place
        Where the first step runs.
    request_job, handle, watch
        Its request at the cluster, the job that works on it, and the watch on that.
    cleared
        Whether jobs for earlier requests of the step are cancelled.
    ahead
        Steps that one job could make, from the first one on.
    shared
        Whether its job works on other experiments too.
    not_before, waiting_for
        When it is tried again (monotonic), and why that is.
    """

    experiment: str
    steps: deque[str]
    held: ExitStack = field(default_factory=ExitStack)
    place: Executor | None = None
    request_job: RequestJob | None = None
    cleared: bool = False
    handle: JobHandle | None = None
    watch: Watch | None = None
    ahead: tuple[str, ...] | None = None
    shared: bool = False
    not_before: float = 0.0
    waiting_for: str = ""

    def forget_job(self) -> None:
        """Stop watching its job."""
        if self.request_job is not None and self.watch is not None:
            self.request_job.forget(self.watch)
        self.handle = self.watch = None

    def rest(self, *, why: str) -> None:
        """Try again later; log the reason once."""
        self.not_before = time.monotonic() + _AGAIN_S
        if why != self.waiting_for:
            self.waiting_for = why
            log(f"{self.experiment} {self.steps[0]}: {why}")

    def end(self, error: BaseException) -> None:
        """Leave the first step undone; its job has been cancelled."""
        with self.held:
            self.forget_job()
            if self.request_job is not None and not self.request_job.is_done():
                self.request_job.record_failure(error)

    def leave(self) -> None:
        """Release the first step and go on to the next."""
        self.held.close()
        self.held = ExitStack()
        self.steps.popleft()
        self.place = self.request_job = self.handle = self.watch = self.ahead = None
        self.cleared, self.shared, self.not_before, self.waiting_for = False, False, 0.0, ""
