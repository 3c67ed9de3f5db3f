"""Executors: what runs a step's request, and what it gives back.

`local.py` has the two of this machine; another one, such as a cluster, fulfils the same protocol. Whoever runs a step
(`engine/locked_step.py`) asks its executor alone whether work on the step may be going on without a process here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

from morphseq_dagster.engine.contract.progress import Progress
from morphseq_dagster.engine.contract.step import StepRequest, StepSpec
from morphseq_dagster.engine.layout import Layout
from morphseq_dagster.engine.storage.records import Record
from morphseq_dagster.engine.storage.staging import Staged


@dataclass(frozen=True)
class Executed:
    """A staged result with the account of its making, ready to be committed."""

    request: StepRequest
    staged: Staged
    started_at: str
    finished_at: str
    seconds: float
    cpu_seconds: float
    place: str


@dataclass(frozen=True)
class Committed:
    """A result that another process has published already; to be verified, not committed.

    Parameters
    ----------
    request, record
        What was asked, and the record of what was published.
    facts
        What the executor knows of how it was made, by name, for people.
    """

    request: StepRequest
    record: Record
    facts: Mapping[str, str | int | float] = field(default_factory=dict)


class WorkLeft(BaseException):
    """An executor has left its work going on and waits for nothing: whoever runs the step leaves, and comes back later.

    No error: it passes every handler of failures, and releases the step's lock on its way.
    """


RunState = Literal["live", "canceled", "over", "unknown"]


@dataclass(frozen=True)
class RunStanding:
    """What is known of the run for which work is done: how it stands, and when it ended (seconds since 1970)."""

    state: RunState
    ended_at: float | None = None


class Report(Protocol):
    """Takes how far a step is."""

    def __call__(self, progress: Progress, /) -> None:
        """Take it."""


def stay_silent(progress: Progress, /) -> None:
    """Report nothing."""
    del progress


class Executor(Protocol):
    """Where a step runs."""

    name: str

    def is_at_work(self, layout: Layout, *, step: str, experiment: str) -> bool:
        """Whether work on a step may be going on that nobody holds the lock for."""
        ...

    def recall(self, layout: Layout, *, record: Record, run_id: str) -> Mapping[str, str | int | float] | None:
        """Facts of the work of a run that published a record while the run was not there; None when there was none."""
        ...

    def run(self, spec: StepSpec, *, request: StepRequest, progress: Report = stay_silent) -> Executed | Committed:
        """Run a request to its staged (here) or published (elsewhere) result."""
        ...
