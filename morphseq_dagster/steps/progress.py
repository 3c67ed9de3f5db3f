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


_LISTENER: ContextVar[Callable[[Progress], None] | None] = ContextVar("listener", default=None)


def tell(progress: Progress) -> None:
    """Report progress to whoever listens; without a listener nothing happens."""
    listener = _LISTENER.get()
    if listener is not None:
        listener(progress)


@contextmanager
def listening(listener: Callable[[Progress], None]) -> Iterator[None]:
    """Receive the reports of everything inside a `with` block."""
    token = _LISTENER.set(listener)
    try:
        yield
    finally:
        _LISTENER.reset(token)
