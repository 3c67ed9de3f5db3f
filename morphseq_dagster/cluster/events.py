"""Events of a bulk run: each step that an experiment has come to, as it was made, stood as it was, or failed.

Whoever iterates over `BulkRun.items` (`bulk_run.py`) gets them.
"""

from __future__ import annotations

from dataclasses import dataclass

from morphseq_dagster.engine.executors.protocol import Committed, Executed
from morphseq_dagster.engine.storage.records import Record


@dataclass(frozen=True)
class StepMade:
    """A step that was made, published and verified; its claim is held until the next item is asked for.

    `recalled` when a job of this very run made it while nobody of the run was there to be told: it may be news or not.
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
