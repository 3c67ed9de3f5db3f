"""Orphans: cluster jobs without a verdict whose run has ended, and what becomes of each.

`survey_jobs` finds every open attempt, asks the cluster about all of them at once and proposes an action;
`settle_orphans` carries the actions out. The caller knows Dagster and how each run stands (`runs/states.py`). A run
that it does not know is over only if its process was one of this host and is gone. Each action holds the step's lock,
so that no run takes the job over meanwhile. A suspended run holds no lock, hence whoever takes a job over writes
`adopted.json` and owns it.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final, Literal

from pydantic import ValidationError

from morphseq_dagster.cluster.attempt_folder import VOID, Attempt, JobRoot
from morphseq_dagster.cluster.client import Client
from morphseq_dagster.cluster.commands import Row
from morphseq_dagster.cluster.errors import UnreachableError
from morphseq_dagster.cluster.job import JobSpec
from morphseq_dagster.cluster.job_files import read_end, read_result, resources_of
from morphseq_dagster.cluster.job_handle import JobHandle, SchedulerView
from morphseq_dagster.cluster.outcome import JobOutcome, is_active
from morphseq_dagster.engine.contract.step import StepRequest
from morphseq_dagster.engine.executors.protocol import RunStanding
from morphseq_dagster.engine.layout import Layout
from morphseq_dagster.engine.storage.commit import roll_forward
from morphseq_dagster.engine.storage.records import Record, read_record
from morphseq_dagster.engine.storage.step_locks import hold_lock, process_is_gone
from morphseq_dagster.errors import MorphseqError, TransientError
from morphseq_dagster.settings.job_values import Resources

Policy = Literal["keep", "cancel"]
_RECONCILER: Final = "reconcile"


class JobStanding(StrEnum):
    """State of an attempt's job."""

    AT_WORK = "at work"
    PUBLISHED = "published"
    ENDED = "ended"
    UNSENT = "not known whether it was submitted"
    MUTE = "no answer"


class OrphanAction(StrEnum):
    """What becomes of an attempt."""

    LEFT = "left alone"
    REPORTED = "only reported"
    KEPT = "kept"
    WAITS = "looked at again"
    DONE = "closed as done"
    CLOSED = "closed"
    CANCELLED = "cancelled"


@dataclass(frozen=True)
class Orphan:
    """One attempt without a verdict, and what becomes of it.

    Parameters
    ----------
    step, experiment, key, attempt
        What it is.
    run_id
        Run that submitted it, or that took it over last; empty when it never came to that.
    run
        How that run stands.
    standing
        State of its job.
    view
        What the scheduler shows; None without an answer.
    action, reason
        What follows, and why.
    """

    step: str
    experiment: str
    key: str
    attempt: Attempt
    run_id: str
    run: RunStanding
    standing: JobStanding
    view: SchedulerView | None
    action: OrphanAction
    reason: str = ""

    @property
    def row(self) -> Row | None:
        """What the controller, or else accounting, shows of it."""
        rows = (self.view.queue, self.view.account) if self.view is not None else ()
        return next((row for row in rows if isinstance(row, Row)), None)


@dataclass(frozen=True)
class Survey:
    """All attempts without a verdict; `trouble` is why the cluster did not answer."""

    orphans: tuple[Orphan, ...]
    trouble: str = ""


def survey_jobs(
    layout: Layout,
    *,
    client: Client | None,
    state_of: Callable[[str], RunStanding],
    policy: Policy = "keep",
    after_s: float = 0.0,
    now: Callable[[], float] = time.time,
) -> Survey:
    """Find every attempt without a verdict, and propose what becomes of it; nothing is done.

    Parameters
    ----------
    layout
        The data root.
    client
        The cluster; None when the settings name none.
    state_of
        How a run stands, by its identifier.
    policy, after_s
        Whether the job of a run that is over goes on, or is cancelled this many seconds after the run ended.
    now
        The clock.
    """
    root = JobRoot(layout.jobs) if client is None else client.root
    found = [((*group, "", "")[:2], key, attempt) for group, key, attempt in root.open_attempts()]
    handles = [_make_handle(group, key, attempt) for group, key, attempt in found]
    views, trouble = _ask(client, handles=[handle for handle in handles if handle.job])
    orphans = []
    for ((step, experiment), key, attempt), handle in zip(found, handles, strict=True):
        view = views.get(attempt.token)
        run_id, word = attempt.run_id, RunStanding("unknown")
        if run_id is not None:
            word = state_of(run_id) if run_id else word
            word = _by_process(attempt) if word.state == "unknown" else word
        standing = _stand(layout, handle=handle, view=view)
        orphan = Orphan(step, experiment, key, attempt, run_id or "", word, standing, view, OrphanAction.LEFT)
        overdue = policy == "cancel" and now() - _orphaned_at(orphan, now=now()) >= after_s
        action, reason = _decide(orphan, overdue=overdue)
        orphans.append(replace(orphan, action=action, reason=reason))
    return Survey(tuple(orphans), trouble)


def settle_orphans(layout: Layout, *, client: Client, survey: Survey) -> tuple[Orphan, ...]:
    """Do what a survey proposes; return every attempt with what became of it. All jobs are cancelled in one call."""
    done: dict[Attempt, Orphan] = {orphan.attempt: orphan for orphan in survey.orphans}
    with ExitStack() as locks:
        held: dict[tuple[str, str], str] = {}
        mine: list[Orphan] = []
        for orphan in survey.orphans:
            if orphan.action is OrphanAction.KEPT and orphan.run.ended_at is None:
                _note_orphan(orphan.attempt)
            if orphan.action not in (OrphanAction.DONE, OrphanAction.CLOSED, OrphanAction.CANCELLED):
                continue
            group = (orphan.step, orphan.experiment)
            if group not in held:
                held[group] = _lock_step(layout, group=group, locks=locks)
            if held[group] or orphan.attempt.is_closed or (orphan.attempt.run_id or "") != orphan.run_id:
                done[orphan.attempt] = replace(
                    orphan, action=OrphanAction.LEFT, reason=held[group] or "somebody was quicker"
                )
            else:
                mine.append(orphan)
        for orphan in mine:
            if orphan.action is not OrphanAction.CANCELLED:
                done[orphan.attempt] = _close(layout, client=client, orphan=orphan)
        cancelled = [orphan for orphan in mine if orphan.action is OrphanAction.CANCELLED]
        done |= {orphan.attempt: orphan for orphan in _cancel(layout, client=client, orphans=cancelled)}
    return tuple(done.values())


def note_adoption(attempt: Attempt, *, run_id: str) -> None:
    """Record that a run has taken over the job of another one and owns it; the caller holds the step's lock."""
    if attempt.run_id != run_id:
        attempt.write("adopted", t=time.time(), host=socket.gethostname(), pid=os.getpid(), run_id=run_id)


def note_suspension(attempt: Attempt) -> None:
    """Record that the run has left on purpose: that its process is gone proves nothing."""
    attempt.write("parked", t=time.time(), run_id=attempt.run_id or "")


def find_result(layout: Layout, *, attempt: Attempt) -> Record | None:
    """Find the published result of an attempt: the record its runner named, or one made for its very request."""
    try:
        request = StepRequest.model_validate_json(attempt.path("request.json").read_bytes())
    except (FileNotFoundError, ValidationError):
        return None
    record = read_record(layout, primary=layout.absolute(request.output))
    if record is None or record.request_key != request.key:
        return None
    return record if record == read_result(attempt).record or record.run_id == request.run_id else None


def has_result(attempt: Attempt, *, layout: Layout) -> bool:
    """Whether the result of an attempt is published."""
    return find_result(layout, attempt=attempt) is not None


def _make_handle(group: Sequence[str], key: str, attempt: Attempt) -> JobHandle:
    spec = JobSpec(group=tuple(group), key=key, command=("/bin/true",), resources=resources_of(attempt) or Resources())
    return JobHandle(spec, attempt, attempt.job or "", adopted=True)


def _ask(client: Client | None, *, handles: Sequence[JobHandle]) -> tuple[dict[str, SchedulerView], str]:
    """Ask about all jobs at once, by token; the reason when there is no answer."""
    if client is None:
        return {}, "the machine settings have no section places.slurm"
    if not handles:
        return {}, ""
    try:
        return client.observe(handles), ""
    except MorphseqError as error:
        return {}, error.found


def _by_process(attempt: Attempt) -> RunStanding:
    """Whether an unknown run is over: only a process that is gone from this host proves it."""
    record = attempt.record("adopted") or attempt.intent
    host, pid = str(record.get("host", "")), int(record.get("pid", 0))
    parked = (attempt.record("parked") or {}).get("run_id")
    if not pid or host != socket.gethostname() or parked == record.get("run_id"):
        return RunStanding("unknown")
    return RunStanding("over") if process_is_gone(pid) else RunStanding("live")


def _stand(layout: Layout, *, handle: JobHandle, view: SchedulerView | None) -> JobStanding:
    attempt = handle.attempt
    end = read_end(attempt, job=handle.job)
    if end is not None and end.code == 0 and has_result(attempt, layout=layout):
        return JobStanding.PUBLISHED
    if not handle.job:
        return JobStanding.ENDED if attempt.owner() == VOID else JobStanding.UNSENT
    if view is None:
        return JobStanding.MUTE
    return JobStanding.AT_WORK if isinstance(view.queue, Row) and is_active(view.queue) else JobStanding.ENDED


def _decide(orphan: Orphan, *, overdue: bool) -> tuple[OrphanAction, str]:
    """Decide what becomes of an attempt; the table of this module."""
    run, standing = orphan.run.state, orphan.standing
    if run == "live":
        return OrphanAction.LEFT, "its run is there"
    if run == "unknown":
        return OrphanAction.REPORTED, "nobody here knows whether its run lives"
    ended = "its run was cancelled" if run == "canceled" else "its run is over"
    fixed = {
        JobStanding.PUBLISHED: (OrphanAction.DONE, f"{ended}, its result stands"),
        JobStanding.MUTE: (OrphanAction.WAITS, f"{ended}, the cluster does not answer"),
        JobStanding.ENDED: (OrphanAction.CLOSED, f"{ended}, and so is its job"),
    }
    if standing in fixed:
        return fixed[standing]
    if run == "canceled" or overdue:
        return OrphanAction.CANCELLED, ended
    if standing is JobStanding.UNSENT:
        return OrphanAction.CLOSED, f"{ended}, and perhaps it never was submitted"
    return OrphanAction.KEPT, f"{ended}; the next run takes it over"


def _orphaned_at(orphan: Orphan, *, now: float) -> float:
    """Since when nobody waits for a job: the end of its run, or else when that was first noticed."""
    if orphan.run.ended_at is not None:
        return orphan.run.ended_at
    noted = orphan.attempt.record("orphan")
    return float(noted["t"]) if noted is not None and noted.get("run_id") == orphan.run_id else now


def _note_orphan(attempt: Attempt) -> None:
    noted, run_id = attempt.record("orphan"), attempt.run_id or ""
    if noted is None or noted.get("run_id") != run_id:
        attempt.write("orphan", t=time.time(), run_id=run_id)


def _lock_step(layout: Layout, *, group: tuple[str, str], locks: ExitStack) -> str:
    """Take a step's lock without waiting; who has it, when somebody has."""
    path = layout.lock(group[0], experiment=group[1])
    try:
        locks.enter_context(hold_lock(path, run_id=_RECONCILER, patience_s=0.0, over_silent=True))
    except TransientError as error:
        return error.found
    return ""


def _close(layout: Layout, *, client: Client, orphan: Orphan) -> Orphan:
    """Close the attempt of a job that has ended, as what it was."""
    attempt, group = orphan.attempt, (orphan.step, orphan.experiment)
    handle = _make_handle(group, orphan.key, attempt)
    if not handle.job:
        return _give_up(client, orphan=orphan)
    if [other for _, _, other in client.root.open_attempts(group)] == [attempt]:
        roll_forward(layout, step=orphan.step, experiment=orphan.experiment)  # nobody else can be publishing
    done = has_result(attempt, layout=layout)
    if not done and orphan.view is None:
        return replace(orphan, action=OrphanAction.WAITS)
    verdict = client.judge(handle, done=done, view=orphan.view, unclear_s=_unclear_s(orphan, client=client))
    if verdict is None:
        return replace(orphan, action=OrphanAction.WAITS, reason="its end is not certain yet")
    reason = ", ".join(part for part in (verdict.outcome, verdict.state, verdict.reason) if part)
    return replace(orphan, action=OrphanAction.DONE if done else OrphanAction.CLOSED, reason=reason)


def _give_up(client: Client, *, orphan: Orphan) -> Orphan:
    """Close an attempt of which no job is known, once its grace is over and nobody knows one by its name."""
    try:
        trouble = client.give_up(orphan.attempt)
    except UnreachableError as error:
        trouble = error.found
    if trouble:
        return replace(orphan, action=OrphanAction.WAITS, reason=trouble)
    return replace(orphan, action=OrphanAction.CLOSED, reason="no job ever began")


def _unclear_s(orphan: Orphan, *, client: Client) -> float:
    """Seconds for which an end has been in sight; unlimited for a job that nobody has watched or remembers."""
    seen = orphan.attempt.record("seen")
    if seen is not None:
        return max(0.0, time.time() - float(seen.get("t", 0.0)))
    return float("inf") if orphan.attempt.age_s > max(client.timeouts.grace_s, client.timeouts.lost_s) else 0.0


def _cancel(layout: Layout, *, client: Client, orphans: Sequence[Orphan]) -> list[Orphan]:
    """Cancel jobs in one call; those that do not end within seconds are closed another time."""
    if not orphans:
        return []
    trouble = ""
    attempts = [orphan.attempt for orphan in orphans]
    try:
        client.cancel(attempts, why="its run has ended")
        client.await_cancelled(attempts, done=lambda attempt: has_result(attempt, layout=layout))
    except UnreachableError as error:
        trouble = error.found
    settled = []
    for orphan in orphans:
        closed = orphan.attempt.record("closed")
        if closed is None:
            settled.append(replace(orphan, action=OrphanAction.WAITS, reason=trouble))
        elif closed.get("kind") == JobOutcome.DONE:
            settled.append(replace(orphan, action=OrphanAction.DONE, reason="it had finished when it was cancelled"))
        else:
            settled.append(orphan)
    return settled
