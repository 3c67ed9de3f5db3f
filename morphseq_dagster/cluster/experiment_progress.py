"""Experiment: one experiment's way through a bulk run.

Holds how far it is. What is done next, and in what order among many, is `bulk`.
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
from morphseq_dagster.engine.executors.protocol import Executor
from morphseq_dagster.engine.storage.step_locks import StepLock

_AGAIN_S: Final = 2.0


class BusyError(Exception):
    """A step's claim is held elsewhere."""

    def __init__(self, claim: StepLock) -> None:
        super().__init__(claim.holder())
        self.claim = claim


@dataclass(eq=False)
class ExperimentProgress:
    """One experiment's way: the steps to go, and how far the first of them is."""

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
    told: str = ""

    def rest(self, *, told: str) -> None:
        """Come back later; say why once."""
        self.not_before = time.monotonic() + _AGAIN_S
        if told != self.told:
            self.told = told
            log(f"{self.experiment} {self.steps[0]}: {told}")

    def end(self, error: BaseException) -> None:
        """Leave the first step undone; its job has been cancelled."""
        with self.held:
            if self.request_job is None:
                return
            if self.watch is not None:
                self.request_job.forget(self.watch)
            if not self.request_job.is_done():
                self.request_job.record_failure(error)

    def leave(self) -> None:
        """Let go of the first step."""
        self.held.close()
        self.held = ExitStack()
        self.steps.popleft()
        self.place = self.request_job = self.handle = self.watch = self.ahead = None
        self.cleared, self.shared, self.not_before, self.told = False, False, 0.0, ""
