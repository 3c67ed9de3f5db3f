"""Job chaining: a pilot job goes on with the next step of an experiment once the one before it is published.

The choice is made on the node, from the files below the data root (`begin_next`); then the agent (`agent.py`) makes the
attempt of that step (`begin_follower`). Its folder is made by the rules of any attempt, so whoever waits takes it over
like any job, and whoever was quicker keeps it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final, Protocol

from morphseq_dagster.cluster.attempt_folder import Attempt, JobRoot
from morphseq_dagster.cluster.open_jobs import find_open_jobs
from morphseq_dagster.cluster.outcome import JobOutcome
from morphseq_dagster.engine.contract.step import StepRequest
from morphseq_dagster.engine.locked_step import find_answer
from morphseq_dagster.engine.storage.atomic_io import write_whole
from morphseq_dagster.engine.storage.commit import is_interrupted
from morphseq_dagster.engine.storage.records import encode
from morphseq_dagster.engine.storage.step_locks import read_lock
from morphseq_dagster.engine.storage.untracked_files import find_untracked
from morphseq_dagster.engine.workspace import Workspace

NEXT: Final = "next"
"""Record of a task that names its follower."""


@dataclass(frozen=True, kw_only=True)
class Follower:
    """What is done next in the same allocation, by the same command and with the same resources.

    Parameters
    ----------
    group, key, request
        As in `JobSpec`.
    then
        What may follow on it; the module of the command knows what this means.
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

    It works for the run of the task before it, and that run's process waits for it.

    Parameters
    ----------
    root
        Where the folders of attempts lie.
    after
        The task that it follows on.
    follower
        What is to be done.
    is_free
        Asked once the folder is there; if not, the attempt is given up.
    """
    attempt = root.next_attempt(follower.group, key=follower.key)
    if attempt is None or not root.begin(attempt):
        return
    intent = after.intent
    owner = {**intent, **(after.record("adopted") or {})}
    write_whole(attempt.path("request.json"), follower.request, sync_entry=False)
    run = {name: owner[name] for name in ("host", "pid", "run_id") if name in owner}
    kept = {name: intent[name] for name in ("resources", "pack", "command") if name in intent}
    then = list(follower.then)
    attempt.write("intent", t=time.time(), token=attempt.token, after=after.token, then=then, **run, **kept)
    if is_free():
        after.write(NEXT, group=list(follower.group), key=follower.key, number=attempt.number)
    elif attempt.give_up():
        attempt.close(kind=JobOutcome.VOID, reason="somebody else was at it")


def find_follower(root: JobRoot, *, after: Attempt) -> Attempt | None:
    """Find the attempt that follows on a task; None when none was begun."""
    found = after.record(NEXT)
    return None if found is None else root.attempt(tuple(found["group"]), key=found["key"], number=int(found["number"]))


def can_follow(workspace: Workspace, *, step: str, experiment: str) -> bool:
    """Whether a node can make a step's request; it does not know where weights lie on the machine that asks.

    Raises
    ------
    PermanentError
        When the experiment's recipe cannot be read.
    """
    spec = workspace.pipeline.spec(step)
    wanted = spec.wanted_externals(workspace.recipe(experiment).slice(step))
    return not any(external.weights for external in wanted)


def begin_next(workspace: Workspace, *, request: StepRequest, then: Sequence[str], begin: Begin) -> None:
    """Begin the first of some steps that is not up to date, now that the request before them is published.

    Where anything is unclear nothing is begun, and the waiting process decides: it holds locks and has the settings.

    Parameters
    ----------
    workspace
        Data root and pipeline.
    request
        What was done.
    then
        Steps that the run wants after it, in order.
    begin
        Makes the follower's folder, unless somebody turns out to be at that step.

    Raises
    ------
    MorphseqError
        When a request cannot be made.
    """
    experiment = request.experiment
    for position, step in enumerate(then):
        if not _is_free(workspace, step=step, request=request):
            return
        asked = workspace.request(workspace.pipeline.spec(step), experiment=experiment, run_id=request.run_id)
        record = find_answer(workspace.layout, spec=workspace.pipeline.spec(step), request=asked)
        if record is None:
            primary = workspace.layout.absolute(asked.output)
            if not any(find_untracked(workspace.layout, step=step, experiment=experiment, primary=primary)):
                rest = tuple(then[position + 1 :])
                follower = Follower(group=(step, experiment), key=asked.key, request=encode(asked), then=rest)
                begin(follower, is_free=partial(_is_unlocked, workspace, step=step, request=request))
            return
        if record.condition != "published":
            return  # the node does not know whether its bytes are needed


def _is_free(workspace: Workspace, *, step: str, request: StepRequest) -> bool:
    """Whether nobody is at a step, or was and did not come to an end."""
    layout, experiment = workspace.layout, request.experiment
    return (
        _is_unlocked(workspace, step=step, request=request)
        and not is_interrupted(layout, step=step, experiment=experiment)
        and not find_open_jobs(layout, step=step, experiment=experiment)
    )


def _is_unlocked(workspace: Workspace, *, step: str, request: StepRequest) -> bool:
    """Whether nobody but the run that this is done for holds a step's lock.

    Asked again when the follower's folder is there: whoever takes a lock looks for folders afterwards, so of two that
    come together one finds the other.
    """
    lock = read_lock(workspace.layout.lock(step, experiment=request.experiment))
    return lock is None or lock.run_id == request.run_id
