"""Progress of long work: steps report, whoever runs them decides how it is shown.

Holds the channel only; a bar in a terminal, a log line or a message to another process are made elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass


@dataclass(frozen=True)
class Progress:
    """How far a step is: `done` of `total` units, and which unit was the last."""

    step: str
    done: int
    total: int
    label: str


_LISTENERS: ContextVar[tuple[Callable[[Progress], None], ...]] = ContextVar("listeners", default=())


def tell(progress: Progress) -> None:
    """Report progress to everyone who listens; without a listener nothing happens."""
    for listener in _LISTENERS.get():
        listener(progress)


@contextmanager
def listening(listener: Callable[[Progress], None]) -> Iterator[None]:
    """Receive the reports of everything inside a `with` block, beside those who listen already."""
    token = _LISTENERS.set((*_LISTENERS.get(), listener))
    try:
        yield
    finally:
        _LISTENERS.reset(token)
