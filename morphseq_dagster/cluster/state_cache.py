"""Words: what the controller last said of a job at work, kept beside its attempt for whoever has no contact.

Holds one small file per attempt, `word.json`, for people alone: no verdict rests on it (an end is kept in `seen.json`),
so it is not flushed to the disk.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from dataclasses import dataclass
from typing import Final

from morphseq_dagster.cluster.attempt_folder import Attempt
from morphseq_dagster.cluster.commands import Row

_AGAIN_S: Final = 60.0
"""Seconds after which the same word is written again, so that its age can be told."""


@dataclass(frozen=True)
class CachedState:
    """State, reason and node of a job, and when the controller said so (seconds since the epoch)."""

    state: str
    reason: str
    node: str
    said_at: float


class StateCache:
    """Keeps the controller's words of one process, and writes what is news."""

    def __init__(self) -> None:
        self._kept: dict[str, CachedState] = {}

    def keep(self, attempt: Attempt, *, row: Row) -> None:
        """Write down what a row shows, where it is new or the last time is a minute ago."""
        word = CachedState(row.state, row.reason or "", row.node, time.time())
        known = self._kept.get(attempt.token)
        same = known is not None and (known.state, known.reason, known.node) == (word.state, word.reason, word.node)
        if known is not None and same and word.said_at - known.said_at < _AGAIN_S:
            return
        self._kept[attempt.token] = word
        temporary = attempt.path(f".word.{os.getpid()}.tmp")
        with contextlib.suppress(OSError):  # a full disk costs the word, not the job
            temporary.write_text(json.dumps(word.__dict__))
            temporary.replace(attempt.path("word.json"))


def read_state(attempt: Attempt) -> CachedState | None:
    """Read the last word on an attempt's job; None when there was none."""
    found = attempt.record("word")
    if found is None:
        return None
    try:
        return CachedState(str(found["state"]), str(found["reason"]), str(found["node"]), float(found["said_at"]))
    except (KeyError, TypeError, ValueError):
        return None
