"""Traces: what a job left in its attempt's folder, and what was last heard of it.

Holds reading and keeping. What they mean is `outcome`.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Sequence
from typing import Any, Final

from morphseq_dagster.cluster.attempt_folder import Attempt
from morphseq_dagster.cluster.commands import Row
from morphseq_dagster.cluster.outcome import End, JobOutcome
from morphseq_dagster.settings.job_values import Resources

_LOG_TAIL: Final = 4096


def read_end(attempt: Attempt, *, job: str, life: int = 0) -> End | None:
    """Read the end record of a job's present life: the last that has begun, or that the scheduler counts."""
    end, start = attempt.record("end"), attempt.record("start") or {}
    present = max(life, int(start.get("restart", 0)))
    if end is None or str(end.get("job")) != job or int(end.get("restart", 0)) < present:
        return None
    return End(code=int(end["rc"]), signal=str(end.get("signal", "")))


def outcomes_of_run(attempts: Sequence[Attempt], *, run_id: str) -> list[JobOutcome]:
    """How the closed attempts of one run ended, oldest first."""
    found = []
    for attempt in attempts:
        intent, closed = attempt.record("intent") or {}, attempt.record("closed")
        if closed is not None and intent.get("run_id", "") == run_id:
            found.append(JobOutcome(closed["kind"]))
    return found


def resources_of(attempt: Attempt) -> Resources | None:
    """What an attempt asked for; None when it never came to that."""
    intent = attempt.record("intent")
    if intent is None:
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


def save_sighting(attempt: Attempt, *, row: Row) -> None:
    """Keep the reason of an end: the controller forgets it after some minutes, accounting never knew it."""
    seen = attempt.record("seen") or {}
    if (seen.get("state"), seen.get("reason")) == (row.state, row.reason):
        return
    with contextlib.suppress(OSError):  # a full disk costs the reason, not the job
        attempt.write("seen", job=row.job, state=row.state, reason=row.reason, node=row.node, t=time.time())
