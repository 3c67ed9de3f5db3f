"""Listeners: a command that runs a job in its own process gets the events of that job while it runs.

Dagster gives the body of an asset no way to the command that started it but the log, hence this one ambient channel.
Bodies of steps report their progress through their context (`engine/contract/context.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

Listener = Callable[[Any], None]

_LISTENERS: ContextVar[tuple[Listener, ...]] = ContextVar("listeners", default=())


def announce(event: Any) -> None:  # noqa: ANN401 - progress of a step, or an event of a bulk run
    """Give an event to all listeners; without one nothing happens."""
    for listener in _LISTENERS.get():
        listener(event)


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Receive the events of everything inside a `with` block, beside other listeners."""
    token = _LISTENERS.set((*_LISTENERS.get(), listener))
    try:
        yield
    finally:
        _LISTENERS.reset(token)
