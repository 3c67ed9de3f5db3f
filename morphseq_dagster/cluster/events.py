"""News: what a campaign tells of each step that an experiment has come to, and who hears of it.

Holds the items alone. They come to whoever iterates over `campaign.Campaign.items`, and to followers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from morphseq_dagster.engine.executors.execution import Committed, Executed
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
    """A step of which nothing had changed."""

    experiment: str
    step: str
    record: Record


@dataclass(frozen=True)
class StepFailed:
    """A step that failed, with the steps after it that were not tried."""

    experiment: str
    step: str
    error: Exception
    untried: tuple[str, ...] = ()


Event = StepMade | StepUpToDate | StepFailed
_FOLLOWERS: ContextVar[tuple[Callable[[Event], None], ...]] = ContextVar("followers", default=())


def followers() -> tuple[Callable[[Event], None], ...]:
    """Those who hear of items just now."""
    return _FOLLOWERS.get()


@contextmanager
def following(follower: Callable[[Event], None]) -> Iterator[None]:
    """Hear of every item of the campaigns inside a `with` block, beside whoever runs them."""
    token = _FOLLOWERS.set((*_FOLLOWERS.get(), follower))
    try:
        yield
    finally:
        _FOLLOWERS.reset(token)
