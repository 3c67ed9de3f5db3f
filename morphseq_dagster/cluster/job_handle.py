"""A job that works on a request, what the scheduler shows of it, its verdict, and how long unclear states may last.

These are values alone; `client.py` makes them.
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
    """How long unclear states may last, in seconds.

    Parameters
    ----------
    grace_s
        From the intent to submit until an attempt without a job may be given up.
    lost_s
        While controller and accounting both answer without knowing a job that ran.
    settle_s
        Until a completed job's result is visible (network disks).
    files_s
        Until the end record after a result or a cancel.
    """

    grace_s: float = 60.0
    lost_s: float = 60.0
    settle_s: float = 30.0
    files_s: float = 15.0


@dataclass(frozen=True)
class JobHandle:
    """A job that works on a request."""

    spec: JobSpec
    attempt: Attempt
    job: str
    adopted: bool = False

    @cached_property
    def name(self) -> str:
        """Name of the job at the scheduler."""
        return self.attempt.name


@dataclass(frozen=True)
class AlreadyDone:
    """The request is done; nothing was submitted."""


@dataclass(frozen=True)
class SchedulerView:
    """What controller and accounting show of a job."""

    queue: Row | Sighting
    account: Row | Sighting | None = None

    @property
    def life(self) -> int:
        """Times the scheduler has started the job again, as far as it shows."""
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

    @property
    def words(self) -> str:
        """State and reason of the scheduler, where there are any."""
        return ", ".join(part for part in (self.state, self.reason) if part)

    def last_lines(self, count: int) -> str:
        """Last lines of the log that are not blank, in one."""
        return " | ".join([line for line in self.log.splitlines() if line.strip()][-count:])
