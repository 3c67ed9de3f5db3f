"""Job chaining: requests that a pilot job's job begins by itself, where one that is done is followed by the next.

Holds the description of a follower, and its making on the node. Its folder is made by the rules of any attempt - the
making is the lock - so whoever waits takes it over as he would any job, and whoever was quicker keeps it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from morphseq_dagster.cluster.attempt_folder import Attempt, JobRoot
from morphseq_dagster.cluster.outcome import JobOutcome
from morphseq_dagster.cluster.records import write_whole

NEXT: Final = "next"
"""Record of a task that names its follower."""


@dataclass(frozen=True, kw_only=True)
class Follower:
    """What is to be done next in the same allocation, by the same command and with the same resources.

    Parameters
    ----------
    group, key, request
        As in `JobSpec`.
    then
        What may follow on it, in words of whoever plans.
    """

    group: tuple[str, ...]
    key: str
    request: bytes
    then: tuple[str, ...] = ()


class Begin(Protocol):
    """Makes a follower's attempt if `is_free` still holds when its folder is there."""

    def __call__(self, follower: Follower, *, is_free: Callable[[], bool]) -> None:
        """Make it."""


def begin_follower(
    root: JobRoot, after: Attempt, follower: Follower, *, is_free: Callable[[], bool] = lambda: True
) -> None:
    """Begin the attempt of a follower, unless somebody else is at it.

    It works for the run that its forerunner works for, and is the business of that run's process.

    Parameters
    ----------
    root
        Where the folders of attempts lie.
    after
        The task that it follows on.
    follower
        What is to be done.
    is_free
        Asked once the folder is there; when it says no the attempt is given up.
    """
    attempt = root.next_attempt(follower.group, key=follower.key)
    if attempt is None or not root.begin(attempt):
        return
    intent = after.record("intent") or {}
    owner = {**intent, **(after.record("adopted") or {})}
    write_whole(attempt.path("request.json"), follower.request, sync_entry=False)
    told = {name: owner[name] for name in ("host", "pid", "run_id") if name in owner}
    kept = {name: intent[name] for name in ("resources", "pack", "command") if name in intent}
    then = list(follower.then)
    attempt.write("intent", t=time.time(), token=attempt.token, after=after.token, then=then, **told, **kept)
    if is_free():
        after.write(NEXT, group=list(follower.group), key=follower.key, number=attempt.number)
    elif attempt.give_up():
        attempt.close(kind=JobOutcome.VOID.value, state="", reason="somebody else was at it", job="")


def find_follower(root: JobRoot, *, after: Attempt) -> Attempt | None:
    """Find the attempt that follows on a task; None when none was begun."""
    told = after.record(NEXT)
    return None if told is None else root.attempt(tuple(told["group"]), key=told["key"], number=int(told["number"]))
