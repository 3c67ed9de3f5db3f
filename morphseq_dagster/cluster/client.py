"""Client: at most one execution per request, whatever dies between the intent to submit and the verdict.

Holds the submit protocol, the search for a job whose number was lost, the verdict and cancelling. Files prove
success, the scheduler explains failure; without an answer nothing is ever submitted or given up. No threads
(`poller`), no waiting for the end of a job.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from morphseq_dagster.cluster.attempt_folder import VOID, Attempt, JobRoot
from morphseq_dagster.cluster.commands import Row, Scheduler, Sighting
from morphseq_dagster.cluster.errors import RejectedError, UndecidedError, UnreachableError
from morphseq_dagster.cluster.job import JobSpec
from morphseq_dagster.cluster.job_files import read_end, save_sighting, tail_of_log
from morphseq_dagster.cluster.job_handle import AlreadyDone, JobHandle, JobVerdict, SchedulerView, Timeouts
from morphseq_dagster.cluster.outcome import Diagnosis, Evidence, JobOutcome, classify, is_active
from morphseq_dagster.cluster.pilot.task import is_wanted, judge_untouched, row_of_task
from morphseq_dagster.cluster.records import sync_folder, write_whole
from morphseq_dagster.cluster.script import write_script
from morphseq_dagster.cluster.state_cache import StateCache

_LOOK_EVERY_S: Final = 2.0
_TICK_S: Final = 0.05
_GRACE_S: Final = 0.5
_WRITERS: Final = 16


class Client:
    """Jobs of one root on one cluster.

    Parameters
    ----------
    scheduler
        The cluster's commands.
    root
        Where the folders of attempts lie.
    timeouts
        Waiting times.
    """

    def __init__(self, scheduler: Scheduler, *, root: JobRoot, timeouts: Timeouts | None = None) -> None:
        self.scheduler, self.root = scheduler, root
        self.timeouts = timeouts or Timeouts()
        self.words = StateCache()
        self._silent: dict[str, float] = {}

    def ensure(
        self,
        spec: JobSpec,
        *,
        done: Callable[[], bool],
        run_id: str = "",
        on_attempt: Callable[[Attempt], None] | None = None,
        wait: bool = True,
    ) -> JobHandle | AlreadyDone:
        """Make sure that a job works on a request, unless it is done.

        Parameters
        ----------
        spec
            The request.
        done
            Whether its result stands.
        run_id
            On whose behalf; an attempt of another run that has ended already is closed, and a new one begun.
        on_attempt
            Called with an attempt before its job is submitted or looked for, so that an interrupted caller can cancel.
        wait
            Wait while nobody can tell whether an attempt's job was submitted.

        Raises
        ------
        UnreachableError
            Nobody answers: call again. Nothing was submitted twice.
        UndecidedError
            Nobody can tell yet, and the caller does not wait: call again.
        RejectedError
            The scheduler does not take the job.
        PermanentError
            The job cannot be written as a safe script.
        """
        told = on_attempt or (lambda _: None)
        while not done():
            attempts = self.root.attempts(spec.group, key=spec.key)
            newest = attempts[-1] if attempts else None
            if newest is None or newest.is_closed:
                attempt = self.root.attempt(spec.group, key=spec.key, number=newest.number + 1 if newest else 1)
                script = write_script(spec, attempt=attempt)
                if self.root.begin(attempt):
                    told(attempt)
                    return self._submit(spec, attempt=attempt, script=script, run_id=run_id)
                continue
            told(newest)
            job = self._settle(newest, wait=wait)
            if job is None:
                continue
            handle = JobHandle(spec, newest, job, adopted=True)
            if not self._ended_for_another_run(handle, done=done, run_id=run_id):
                return handle
        return AlreadyDone()

    def find(self, attempt: Attempt) -> str | None:
        """Look for the job of an attempt; None when controller and accounting both answered without it.

        Raises
        ------
        UnreachableError
            When one of them did not answer.
        """
        if attempt.job is not None:
            return attempt.job
        pilot = attempt.pilot
        if pilot is not None:
            # Its tasks come together, and one answer is for all of them. A given up pilot job gets no job.
            if (
                pilot.owner() == VOID
                or time.monotonic() - self._silent.get(pilot.token, -_LOOK_EVERY_S) < _LOOK_EVERY_S
            ):
                return None
            job = self.find(pilot)
            self._silent[pilot.token] = time.monotonic()
            return job
        row = self.scheduler.queue(names=[attempt.token]).of_name(attempt.token)
        source = "squeue"
        if not isinstance(row, Row):
            reply = self.scheduler.account(names=[attempt.token], since_s=attempt.age_s + 60)
            if reply is None:
                return None
            row, source = reply.of_name(attempt.token), "sacct"
        if not isinstance(row, Row):
            return None
        attempt.write("job", job=row.job, cluster="", t=time.time(), found=source)
        return row.job

    def observe(self, handles: Sequence[JobHandle]) -> dict[str, SchedulerView]:
        """Ask about jobs, by token: all in one squeue, and sacct once for those that it does not show at work."""
        reply = self.scheduler.queue(jobs=list(dict.fromkeys(handle.job for handle in handles)))
        views = {
            handle.attempt.token: SchedulerView(
                _own_row(handle.attempt, reply.of_job(handle.job, name=handle.name), name=handle.name)
            )
            for handle in handles
        }
        for handle in handles:
            row = views[handle.attempt.token].queue
            if isinstance(row, Row):
                (self.words.keep if is_active(row) else save_sighting)(handle.attempt, row=row)
        over = [handle for handle in handles if not isinstance(views[handle.attempt.token].queue, Row)]
        if not over:
            return views
        with contextlib.suppress(UnreachableError):
            oldest = max(handle.attempt.age_s for handle in over)
            jobs = list(dict.fromkeys(handle.job for handle in over))
            accounts = self.scheduler.account(jobs=jobs, since_s=oldest + 3600)
            if accounts is not None:
                for handle in over:
                    token = handle.attempt.token
                    views[token] = SchedulerView(views[token].queue, accounts.of_job(handle.job, name=handle.name))
        return views

    def judge(
        self, handle: JobHandle, *, done: bool, view: SchedulerView | None, unclear_s: float = 0.0
    ) -> JobVerdict | None:
        """Say how a job ended and close its attempt; None while it has not ended or nobody can tell."""
        attempt, queue = handle.attempt, None if view is None else view.queue
        seen = attempt.record("seen") or {}
        life = 0 if view is None else view.life
        pilot = None if view is None or done else attempt.pilot
        log = tail_of_log(attempt)
        if pilot is not None and not (isinstance(queue, Row) and queue.name == attempt.token):
            log += b"\n" + tail_of_log(pilot)  # why the allocation ended stands in its own log
        diagnosis = classify(
            Evidence(
                done=done,
                queue=queue,
                account=None if view is None else view.account,
                accounting=self.scheduler.has_accounting is not False,
                seen=(str(seen["state"]), seen.get("reason")) if str(seen.get("job")) == handle.job else None,
                end=read_end(attempt, job=handle.job, life=life),
                log=log,
                unclear_s=unclear_s,
                lost_s=self.timeouts.lost_s,
                settle_s=self.timeouts.settle_s,
                again=handle.spec.requeue,
                began=life == 0 or int((attempt.record("start") or {}).get("restart", 0)) >= life,
            )
        )
        if diagnosis is not None and pilot is not None:
            diagnosis = judge_untouched(attempt, diagnosis=diagnosis)
        return None if diagnosis is None else self._close(handle, diagnosis=diagnosis, node=_node(attempt, queue))

    def cancel(self, attempts: Sequence[Attempt], *, why: str = "cancelled by the caller") -> None:
        """Cancel what works on attempts: no job begins any more, running ones are told to stop.

        Each gets a wish: a job whose number is not known, or that cannot be told now, meets it when it starts.
        The allocation of a pilot job finds the wish by itself, and is told to stop when nobody wants any of its tasks.

        Raises
        ------
        UnreachableError
            When the scheduler could not be told.
        """
        known = [str(job) for attempt in attempts if (job := _known_job(attempt)) is not None]
        with ThreadPoolExecutor(_WRITERS) as pool:
            # At once: where many jobs have just begun, each of our own steps waits for a processor beside theirs.
            told = pool.submit(self.scheduler.cancel, known)
            wanted_off = _request_cancel(attempts, why=why)
            jobs = list(pool.map(self._find_to_cancel, wanted_off))
        pilots = {pilot.folder: pilot for attempt in attempts if (pilot := attempt.pilot) is not None}
        unwanted = _request_cancel([pilot for pilot in pilots.values() if not is_wanted(pilot)], why=why)
        jobs += map(self._find_to_cancel, unwanted)
        self.scheduler.cancel([job for job in jobs if job is not None and job not in known])
        told.result()

    def await_cancelled(
        self, attempts: Sequence[Attempt], *, done: Callable[[Attempt], bool] = lambda _: False
    ) -> None:
        """Give cancelled jobs some seconds to write their end, then close their attempts.

        Raises
        ------
        UnreachableError
            When nobody can say whether they ended; the attempts stay open then.
        """
        deadline = time.monotonic() + self.timeouts.files_s
        waiting = [attempt for attempt in attempts if not attempt.is_closed]
        pilots = {pilot.folder: pilot for attempt in waiting if (pilot := attempt.pilot) is not None}
        waiting += [pilot for pilot in pilots.values() if pilot.record("cancel") is not None]
        ended: list[tuple[Attempt, Row | Sighting | None]] = []
        while waiting:
            self._await_ends(waiting)
            jobs = list(dict.fromkeys(job for attempt in waiting if (job := attempt.job) is not None))
            rows = self.scheduler.queue(jobs=jobs) if jobs else None
            still = []
            for attempt in waiting:
                job, name = attempt.job, attempt.name
                row = None if rows is None or job is None else rows.of_job(job, name=name)
                row = None if row is None else _own_row(attempt, row, name=name)
                if isinstance(row, Row) and is_active(row):
                    still.append(attempt)
                else:
                    ended.append((attempt, row))
            waiting = still
            if not waiting or time.monotonic() > deadline:
                break
            time.sleep(2 * _TICK_S)

        def close(item: tuple[Attempt, Row | Sighting | None]) -> None:
            attempt, row = item
            kind = JobOutcome.DONE if attempt.folder not in pilots and done(attempt) else JobOutcome.CANCELLED
            state, reason = (row.state, row.reason) if isinstance(row, Row) else ("", None)
            attempt.close(kind=kind.value, job=attempt.job or "", state=state, reason=reason or "")

        # Not while jobs are still ending: verdicts are flushed to the disk, and so is what the scheduler writes.
        with ThreadPoolExecutor(min(_WRITERS, max(1, len(ended)))) as pool:
            list(pool.map(close, ended))
        if waiting:
            raise UnreachableError(
                expected="cancelled jobs to end",
                found=f"{len(waiting)} still there after {self.timeouts.files_s:g} s",
                where=", ".join(str(attempt.folder) for attempt in waiting),
                remedy="`morphseq jobs` shows them; the scheduler ends them after its KillWait",
            )

    def _submit(self, spec: JobSpec, *, attempt: Attempt, script: str, run_id: str) -> JobHandle:
        """Write everything, the intent last, then submit; the answer's number is written at once.

        The intent's own flush of the folder makes the names of the files before it last too.
        """
        write_whole(attempt.path("request.json"), spec.request, sync_entry=False)
        write_whole(attempt.path("job.sh"), script.encode(), sync_entry=False)
        attempt.intend(resources=spec.resources.as_dict(), run_id=run_id)
        try:
            submitted = self.scheduler.submit(f"{attempt.there}/job.sh")
        except RejectedError as error:
            job = None if attempt.give_up() else attempt.job
            if job is None:
                attempt.close(kind=JobOutcome.REJECTED.value, reason=error.found, state="", job="")
                raise
            return JobHandle(spec, attempt, job, adopted=True)  # whatever the command said, a job works on it
        attempt.write("job", job=submitted.job, cluster=submitted.cluster, t=time.time(), found="sbatch")
        return JobHandle(spec, attempt, submitted.job)

    def _settle(self, attempt: Attempt, *, wait: bool) -> str | None:
        """Find the job of an open attempt, or give the attempt up when its grace is over; None then."""
        looked = float("-inf")
        while not attempt.is_closed:
            if attempt.owner() == VOID:
                self._cancel_again(attempt)
                attempt.close(kind=_kind_of_void(attempt).value, state="", reason="given up before a job began", job="")
                return None
            if attempt.job is not None:
                if attempt.record("cancel") is None:
                    return attempt.job
                self._cancel_again(attempt)
                self.await_cancelled([attempt])
                return None
            over = attempt.age_s >= self.timeouts.grace_s
            if over or (_is_orphan(attempt) and time.monotonic() - looked >= _LOOK_EVERY_S):
                looked = time.monotonic()
                job = self.find(attempt)
                if job is not None:
                    return job
                if over:
                    # Winning the claim is what makes this safe: a job that comes late finds it taken and leaves.
                    for given_up in (attempt, attempt.pilot):
                        if given_up is not None:
                            given_up.give_up()
                    continue
            if not wait:
                raise UndecidedError(
                    expected="to know whether the job was submitted",
                    found=f"no word of it {attempt.age_s:.0f} s after the intent",
                    where=str(attempt.folder),
                    remedy=f"wait: it is given up after {self.timeouts.grace_s:g} s",
                )
            time.sleep(_TICK_S)
        return None

    def _find_to_cancel(self, attempt: Attempt) -> str | None:
        """Number of the job to be told that an attempt is not wanted; a pilot job's job is not told for one task."""
        return None if attempt.pilot is not None else attempt.job or self.find(attempt)

    def _cancel_again(self, attempt: Attempt) -> None:
        """Say to the scheduler what somebody wished, who may have died before saying so."""
        wish = attempt.record("cancel")
        if wish is not None:
            self.cancel([attempt], why=str(wish.get("why", "")))

    def _ended_for_another_run(self, handle: JobHandle, *, done: Callable[[], bool], run_id: str) -> bool:
        """Whether an adopted attempt ended before this run asked; it is closed then."""
        intent = handle.attempt.record("intent")
        if intent is None or intent.get("run_id", "") == run_id:
            return False
        try:
            view = self.observe([handle])[handle.attempt.token]
        except UnreachableError:
            return False
        if isinstance(view.queue, Row) and is_active(view.queue):
            return False
        # Nobody watched its end: what it left has had its time to come into sight.
        age_s = float("inf") if handle.attempt.age_s > self.timeouts.grace_s else 0.0
        return not done() and self.judge(handle, done=False, view=view, unclear_s=age_s) is not None

    def _close(self, handle: JobHandle, *, diagnosis: Diagnosis, node: str) -> JobVerdict:
        attempt = handle.attempt
        if diagnosis.outcome is JobOutcome.DONE:
            self._await_end(handle)
        log, pilot = tail_of_log(attempt), attempt.pilot
        if not log and pilot is not None:
            log = tail_of_log(pilot)  # it never came to a log of its own
        verdict = JobVerdict(
            outcome=diagnosis.outcome,
            state=diagnosis.state,
            reason=diagnosis.reason,
            job=handle.job,
            node=node,
            log=log.decode("utf-8", "backslashreplace"),
        )
        attempt.close(
            kind=verdict.outcome.value, state=verdict.state, reason=verdict.reason, job=verdict.job, node=verdict.node
        )
        return verdict

    def _await_ends(self, attempts: Sequence[Attempt]) -> None:
        """Let jobs that were at work say that they end: a scheduler that is asked meanwhile ends them later."""
        deadline = time.monotonic() + _GRACE_S
        working = [attempt for attempt in attempts if attempt.owner() not in (None, VOID)]
        while working and time.monotonic() < deadline:
            time.sleep(_TICK_S)
            working = [attempt for attempt in working if attempt.record("end") is None]

    def _await_end(self, handle: JobHandle) -> None:
        """Let a job that has published its result write its end record: it tells what the job used."""
        deadline = time.monotonic() + min(2.0, self.timeouts.files_s)
        while read_end(handle.attempt, job=handle.job) is None and time.monotonic() < deadline:
            time.sleep(_TICK_S / 5)


def _own_row(attempt: Attempt, row: Row | Sighting, *, name: str) -> Row | Sighting:
    """Row of an attempt; of a task of a pilot job, which shares its job, what the row of that job means for it."""
    job = attempt.job
    if name == attempt.token or job is None:
        return row
    return row_of_task(attempt, job=job, end=read_end(attempt, job=job), row=row)


def _is_orphan(attempt: Attempt) -> bool:
    """Whether whoever meant to submit cannot be at it any more, as far as this host can tell."""
    intent = attempt.record("intent")
    if intent is None:
        return False
    if intent.get("host") != socket.gethostname():
        return True
    pid = int(intent.get("pid", 0))
    if pid == os.getpid():
        return True  # an earlier try of this very process ended without an answer
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False


def _request_cancel(attempts: Sequence[Attempt], *, why: str) -> list[Attempt]:
    """Write down that attempts are not wanted, and that no job may begin; return those that are open."""
    wanted_off = [attempt for attempt in attempts if not attempt.is_closed]
    for attempt in wanted_off:
        # A power cut may take the wish and finds the job cancelled; flushing fifty of them takes its time.
        attempt.note("cancel", t=time.time(), why=why)
    # All before the first is flushed: the disk takes them as one.
    for attempt in [attempt for attempt in wanted_off if attempt.give_up(flush=False)]:
        sync_folder(attempt.folder)
    return wanted_off


def _known_job(attempt: Attempt) -> str | None:
    """Number of an attempt's own job, as sbatch answered."""
    record = None if attempt.is_closed else attempt.record("job")
    return None if record is None or attempt.pilot is not None else attempt.job


def _kind_of_void(attempt: Attempt) -> JobOutcome:
    return JobOutcome.VOID if attempt.record("cancel") is None else JobOutcome.CANCELLED


def _node(attempt: Attempt, queue: Row | Sighting | None) -> str:
    start = attempt.record("start")
    if start is not None:
        return str(start.get("node", ""))
    return queue.node if isinstance(queue, Row) else ""
