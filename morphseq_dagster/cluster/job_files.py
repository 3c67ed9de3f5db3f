"""Job files: what a job left in its attempt's folder, and the last state that the controller gave of it.

The folder and its records are `attempt_folder.py`; what the files mean is decided in `outcome.py`.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from morphseq_dagster.cluster.attempt_folder import Attempt
from morphseq_dagster.cluster.commands import Row
from morphseq_dagster.cluster.outcome import End, JobOutcome
from morphseq_dagster.engine.executors.runner_outcome import RunnerOutcome, read_outcome
from morphseq_dagster.settings.job_values import Resources

_LOG_TAIL: Final = 4096
_AGAIN_S: Final = 60.0
"""Seconds after which an unchanged state is written again, so that its age is known."""


@dataclass(frozen=True)
class CachedState:
    """State, reason and node of a job, and when the controller gave them (seconds since the epoch)."""

    state: str
    reason: str
    node: str
    said_at: float


class StateCache:
    """Keeps the states that the controller gives to one process in `word.json` of each attempt.

    They are for people who have no contact with the cluster. No verdict rests on them (an end is kept in `seen.json`),
    hence they are not flushed to the disk.
    """

    def __init__(self) -> None:
        self._kept: dict[str, CachedState] = {}

    def keep(self, attempt: Attempt, *, row: Row) -> None:
        """Write the state that a row shows, if it is new or was last written a minute ago."""
        found = CachedState(row.state, row.reason or "", row.node, time.time())
        known = self._kept.get(attempt.token)
        same = known is not None and (known.state, known.reason, known.node) == (found.state, found.reason, found.node)
        if known is not None and same and found.said_at - known.said_at < _AGAIN_S:
            return
        self._kept[attempt.token] = found
        with contextlib.suppress(OSError):  # a full disk costs the state, not the job
            attempt.note("word", **vars(found))


def read_state(attempt: Attempt) -> CachedState | None:
    """Read the last state of an attempt's job; None when there is none."""
    found = attempt.record("word")
    if found is None:
        return None
    try:
        return CachedState(str(found["state"]), str(found["reason"]), str(found["node"]), float(found["said_at"]))
    except (KeyError, TypeError, ValueError):
        return None


def save_end_seen(attempt: Attempt, *, row: Row) -> None:
    """Keep the reason of an end: the controller forgets it after some minutes, accounting never has it."""
    seen = attempt.record("seen") or {}
    if (seen.get("state"), seen.get("reason")) == (row.state, row.reason):
        return
    with contextlib.suppress(OSError):  # a full disk costs the reason, not the job
        attempt.write("seen", job=row.job, state=row.state, reason=row.reason, node=row.node, t=time.time())


def read_end(attempt: Attempt, *, job: str | None = None, life: int = 0) -> End | None:
    """Read the end record of a job's present life: the last that has begun, or that the scheduler counts.

    The job is the attempt's own unless it is given.
    """
    end = attempt.record("end")
    if end is None:
        return None
    present = max(life, int((attempt.record("start") or {}).get("restart", 0)))
    if str(end.get("job")) != (job or attempt.job or "") or int(end.get("restart", 0)) < present:
        return None
    return End(code=int(end["rc"]), signal=str(end.get("signal", "")))


def read_result(attempt: Attempt) -> RunnerOutcome:
    """Read what the runner of an attempt left: the record that it published, or its error; neither while it works."""
    return read_outcome(attempt.path("outcome.json"))


def outcomes_of_run(attempts: Sequence[Attempt], *, run_id: str) -> list[JobOutcome]:
    """How the closed attempts of one run ended, oldest first."""
    closed = [(attempt.record("closed"), attempt) for attempt in attempts]
    return [JobOutcome(record["kind"]) for record, attempt in closed if record and attempt.belongs_to(run_id)]


def resources_of(attempt: Attempt) -> Resources | None:
    """What an attempt asked for; None when nothing was submitted for it."""
    intent = attempt.intent
    if not intent:
        return None
    named: dict[str, Any] = intent.get("resources", {})
    return Resources(**named)


def tail_of_log(attempt: Attempt, *, size: int = _LOG_TAIL) -> bytes:
    """Last bytes of an attempt's log; empty when there is none."""
    try:
        with attempt.path("log.txt").open("rb") as handle:
            handle.seek(0, os.SEEK_END)
            handle.seek(max(0, handle.tell() - size))
            return handle.read()
    except FileNotFoundError:
        return b""
