"""Live: a job that answers a request, and what may be known of it.

Holds these values alone: the job, what the scheduler said of it, its verdict, and how long doubtful things may take.
How they come about is `client`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from morphseq_dagster.cluster.attempt_folder import Attempt
from morphseq_dagster.cluster.commands import Row, Sighting
from morphseq_dagster.cluster.job import JobSpec
from morphseq_dagster.cluster.outcome import JobOutcome


@dataclass(frozen=True)
class Timeouts:
    """How long doubtful things may take, in seconds.

    Parameters
    ----------
    grace_s
        From the intent to submit until an attempt without a job may be given up.
    lost_s
        Both controller and accounting answer without a word of a job that ran.
    settle_s
        A completed job's result has not come into sight (network disks).
    files_s
        For the end record after a result or a cancel.
    """

    grace_s: float = 60.0
    lost_s: float = 60.0
    settle_s: float = 30.0
    files_s: float = 15.0


@dataclass(frozen=True)
class JobHandle:
    """A job that answers a request."""

    spec: JobSpec
    attempt: Attempt
    job: str
    adopted: bool = False

    @cached_property
    def name(self) -> str:
        """Name of the job, as the scheduler knows it."""
        return self.attempt.name


@dataclass(frozen=True)
class AlreadyDone:
    """The request is done; nothing was submitted."""


@dataclass(frozen=True)
class SchedulerView:
    """What the scheduler said of a job."""

    queue: Row | Sighting
    account: Row | Sighting | None = None

    @property
    def life(self) -> int:
        """Times the scheduler has started the job again, as far as it says."""
        return max((row.restarts or 0 for row in (self.queue, self.account) if isinstance(row, Row)), default=0)


@dataclass(frozen=True)
class JobVerdict:
    """How an attempt ended."""

    outcome: JobOutcome
    state: str
    reason: str
    job: str
    node: str = ""
    log: str = ""
