"""Client: at most one execution per request, whatever dies between the intent to submit and the verdict.

It submits jobs, finds those whose number was lost, gives verdicts and cancels. Files prove success and the scheduler
explains failure; without an answer nothing is submitted or given up. Asking the scheduler about jobs is `lookup.py`;
waiting for their ends, with threads, is `poller.py`.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from morphseq_dagster.cluster.attempt_folder import VOID, Attempt, JobRoot
from morphseq_dagster.cluster.commands import Row, Scheduler, Sighting
from morphseq_dagster.cluster.errors import RejectedError, UndecidedError, UnreachableError
from morphseq_dagster.cluster.job import JobSpec
from morphseq_dagster.cluster.job_files import read_end, tail_of_log
from morphseq_dagster.cluster.job_handle import AlreadyDone, JobHandle, JobVerdict, SchedulerView, Timeouts
from morphseq_dagster.cluster.lookup import LOOK_EVERY_S, JobLookup
from morphseq_dagster.cluster.outcome import Diagnosis, Evidence, JobOutcome, classify, is_active
from morphseq_dagster.cluster.pilot.task import is_wanted, judge_untouched, own_row
from morphseq_dagster.cluster.script import write_script
from morphseq_dagster.engine.storage.atomic_io import sync_folder, write_whole
from morphseq_dagster.engine.storage.step_locks import process_is_gone

_TICK_S: Final = 0.05
_GRACE_S: Final = 0.5
_WRITERS: Final = 16
_NEVER_BEGUN: Final = "given up before a job began"


class Client(JobLookup):
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
        super().__init__(scheduler)
        self.root = root
        self.timeouts = timeouts or Timeouts()

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
            Wait while nobody knows whether an attempt's job was submitted.

        Raises
        ------
        UnreachableError
            Nobody answers: call again. Nothing was submitted twice.
        UndecidedError
            Nobody knows yet, and the caller does not wait: call again.
        RejectedError
            The scheduler does not take the job.
        PermanentError
            The job cannot be written as a safe script.
        """
        on_attempt = on_attempt or (lambda _: None)
        while not done():
            attempts = self.root.attempts(spec.group, key=spec.key)
            newest = attempts[-1] if attempts else None
            if newest is None or newest.is_closed:
                attempt = self.root.attempt(spec.group, key=spec.key, number=newest.number + 1 if newest else 1)
                script = write_script(spec, attempt=attempt)
                if self.root.begin(attempt):
                    on_attempt(attempt)
                    return self._submit(spec, attempt=attempt, script=script, run_id=run_id)
                continue
            on_attempt(newest)
            job = self._settle(newest, wait=wait)
            if job is None:
                continue
            handle = JobHandle(spec, newest, job, adopted=True)
            if not self._ended_for_another_run(handle, done=done, run_id=run_id):
                return handle
        return AlreadyDone()

    def judge(
        self, handle: JobHandle, *, done: bool, view: SchedulerView | None, unclear_s: float = 0.0
    ) -> JobVerdict | None:
        """Give the verdict on a job and close its attempt; None while it has not ended or nobody knows.

        Parameters
        ----------
        handle, done
            The job, and whether its request is done.
        view
            What the scheduler shows; None without an answer.
        unclear_s
            Seconds for which an end has been in sight.
        """
        attempt, queue = handle.attempt, None if view is None else view.queue
        seen = attempt.record("seen") or {}
        life = 0 if view is None else view.life
        pilot = None if view is None or done else attempt.pilot
        text = tail_of_log(attempt)
        if pilot is not None and not (isinstance(queue, Row) and queue.name == attempt.token):
            text += b"\n" + tail_of_log(pilot)  # why the allocation ended stands in its own log
        diagnosis = classify(
            Evidence(
                done=done,
                queue=queue,
                account=None if view is None else view.account,
                accounting=self.scheduler.has_accounting is not False,
                seen=(str(seen["state"]), seen.get("reason")) if str(seen.get("job")) == handle.job else None,
                end=read_end(attempt, job=handle.job, life=life),
                log=text,
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
        """Cancel what works on attempts: no job begins any more, and jobs at work get a TERM.

        The record `cancel` is written for each. A job that cannot be reached now finds it when it starts, and a pilot
        job finds the records of its tasks while it works; its allocation is cancelled when none of its tasks is wanted.

        Raises
        ------
        UnreachableError
            When the scheduler could not be reached.
        """
        known = [str(job) for attempt in attempts if (job := _known_job(attempt)) is not None]
        with ThreadPoolExecutor(_WRITERS) as pool:
            # At once: where many jobs have just begun, each of our own steps waits for a processor beside theirs.
            sent = pool.submit(self.scheduler.cancel, known)
            unwanted = _request_cancel(attempts, why=why)
            jobs = list(pool.map(self._find_to_cancel, unwanted))
        pilots = [pilot for pilot in _pilots_of(attempts) if not is_wanted(pilot)]
        jobs += map(self._find_to_cancel, _request_cancel(pilots, why=why))
        self.scheduler.cancel([job for job in jobs if job is not None and job not in known])
        sent.result()

    def await_cancelled(
        self, attempts: Sequence[Attempt], *, done: Callable[[Attempt], bool] = lambda _: False
    ) -> None:
        """Give cancelled jobs some seconds to write their end, then close their attempts.

        Raises
        ------
        UnreachableError
            When nobody knows whether they ended; the attempts stay open then.
        """
        deadline = time.monotonic() + self.timeouts.files_s
        waiting = [attempt for attempt in attempts if not attempt.is_closed]
        pilots = [pilot for pilot in _pilots_of(waiting) if pilot.cancel_requested]
        waiting += pilots
        ended: list[tuple[Attempt, Row | Sighting | None]] = []
        while waiting:
            self._await_ends(waiting)
            jobs = list(dict.fromkeys(job for attempt in waiting if (job := attempt.job) is not None))
            rows = self.scheduler.queue(jobs=jobs) if jobs else None
            still = []
            for attempt in waiting:
                job, name = attempt.job, attempt.name
                row = None if rows is None or job is None else own_row(attempt, rows.of_job(job, name=name), name=name)
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
            kind = JobOutcome.DONE if attempt not in pilots and done(attempt) else JobOutcome.CANCELLED
            state, reason = (row.state, row.reason or "") if isinstance(row, Row) else ("", "")
            attempt.close(kind=kind, job=attempt.job or "", state=state, reason=reason)

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
                attempt.close(kind=JobOutcome.REJECTED, reason=error.found)
                raise
            return JobHandle(spec, attempt, job, adopted=True)  # whatever sbatch answered, a job works on it
        attempt.write("job", job=submitted.job, cluster=submitted.cluster, t=time.time(), found="sbatch")
        return JobHandle(spec, attempt, submitted.job)

    def _settle(self, attempt: Attempt, *, wait: bool) -> str | None:
        """Find the job of an open attempt, or give the attempt up when its grace is over; None then."""
        looked = float("-inf")
        while not attempt.is_closed:
            if attempt.owner() == VOID:
                kind = JobOutcome.CANCELLED if attempt.cancel_requested else JobOutcome.VOID
                self._cancel_again(attempt)
                attempt.close(kind=kind, reason=_NEVER_BEGUN)
                return None
            if attempt.job is not None:
                if not attempt.cancel_requested:
                    return attempt.job
                self._cancel_again(attempt)
                self.await_cancelled([attempt])
                return None
            over = attempt.age_s >= self.timeouts.grace_s
            if over or (_is_orphan(attempt) and time.monotonic() - looked >= LOOK_EVERY_S):
                looked = time.monotonic()
                job = self.find(attempt)
                if job is not None:
                    return job
                if over:
                    # The claim makes this safe: a job that comes late finds it taken and leaves.
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

    def give_up(self, attempt: Attempt) -> str:
        """Close an attempt of which no job is known, once its grace is over; why it stays open, or nothing.

        Raises
        ------
        UnreachableError
            When the scheduler does not answer.
        """
        job = self.find(attempt)
        if job is None and attempt.owner() is None and attempt.age_s < self.timeouts.grace_s:
            return "it may yet be submitted"
        given_up = [one.give_up() for one in (attempt, attempt.pilot) if job is None and one is not None]
        if not given_up or not given_up[0]:
            return "its job was found"
        attempt.close(kind=JobOutcome.VOID, reason=_NEVER_BEGUN)
        return ""

    def _find_to_cancel(self, attempt: Attempt) -> str | None:
        """Number of the job to cancel for an attempt; none for a single task of a pilot job."""
        return None if attempt.pilot is not None else attempt.job or self.find(attempt)

    def _cancel_again(self, attempt: Attempt) -> None:
        """Cancel what somebody wanted cancelled, who may have died before scancel was called."""
        request = attempt.record("cancel")
        if request is not None:
            self.cancel([attempt], why=str(request.get("why", "")))

    def _ended_for_another_run(self, handle: JobHandle, *, done: Callable[[], bool], run_id: str) -> bool:
        """Whether an adopted attempt ended before this run asked; it is closed then."""
        attempt = handle.attempt
        if not attempt.intent or attempt.belongs_to(run_id):
            return False
        try:
            view = self.observe([handle])[attempt.token]
        except UnreachableError:
            return False
        if isinstance(view.queue, Row) and is_active(view.queue):
            return False
        # Nobody watched its end: what it left has had its time to come into sight.
        unclear_s = float("inf") if attempt.age_s > self.timeouts.grace_s else 0.0
        return not done() and self.judge(handle, done=False, view=view, unclear_s=unclear_s) is not None

    def _close(self, handle: JobHandle, *, diagnosis: Diagnosis, node: str) -> JobVerdict:
        attempt = handle.attempt
        if diagnosis.outcome is JobOutcome.DONE:
            self._await_end(handle)
        text, pilot = tail_of_log(attempt), attempt.pilot
        if not text and pilot is not None:
            text = tail_of_log(pilot)  # it has no log of its own yet
        outcome, state, reason = diagnosis.outcome, diagnosis.state, diagnosis.reason
        attempt.close(kind=outcome, state=state, reason=reason, job=handle.job, node=node)
        return JobVerdict(outcome, state, reason, handle.job, node, text.decode("utf-8", "backslashreplace"))

    def _await_ends(self, attempts: Iterable[Attempt]) -> None:
        """Give jobs that were at work time to write their end: a scheduler that is asked meanwhile ends them later."""
        deadline = time.monotonic() + _GRACE_S
        working = [attempt for attempt in attempts if attempt.owner() not in (None, VOID)]
        while working and time.monotonic() < deadline:
            time.sleep(_TICK_S)
            working = [attempt for attempt in working if attempt.record("end") is None]

    def _await_end(self, handle: JobHandle) -> None:
        """Give a job that has published its result time to write its end record, which holds what the job used."""
        deadline = time.monotonic() + min(2.0, self.timeouts.files_s)
        while read_end(handle.attempt, job=handle.job) is None and time.monotonic() < deadline:
            time.sleep(_TICK_S / 5)


def _is_orphan(attempt: Attempt) -> bool:
    """Whether whoever meant to submit cannot be at it any more, as far as this host knows."""
    intent = attempt.intent
    if not intent:
        return False
    if intent.get("host") != socket.gethostname():
        return True
    pid = int(intent.get("pid", 0))
    # Of this very process it was an earlier try, which ended without an answer.
    return pid == os.getpid() or process_is_gone(pid)


def _pilots_of(attempts: Iterable[Attempt]) -> list[Attempt]:
    """Pilot jobs whose tasks these are, each once."""
    return list({pilot.folder: pilot for attempt in attempts if (pilot := attempt.pilot) is not None}.values())


def _request_cancel(attempts: Sequence[Attempt], *, why: str) -> list[Attempt]:
    """Record that attempts are not wanted, and that no job may begin; return those that are open."""
    open_ones = [attempt for attempt in attempts if not attempt.is_closed]
    for attempt in open_ones:
        # A power cut may take the record and finds the job cancelled; flushing fifty of them takes its time.
        attempt.note("cancel", t=time.time(), why=why)
    # All before the first is flushed: the disk takes them as one.
    for attempt in [attempt for attempt in open_ones if attempt.give_up(flush=False)]:
        sync_folder(attempt.folder)
    return open_ones


def _known_job(attempt: Attempt) -> str | None:
    """Number of an attempt's own job, as sbatch answered."""
    record = None if attempt.is_closed else attempt.record("job")
    return None if record is None or attempt.pilot is not None else attempt.job


def _node(attempt: Attempt, queue: Row | Sighting | None) -> str:
    start = attempt.record("start")
    if start is not None:
        return str(start.get("node", ""))
    return queue.node if isinstance(queue, Row) else ""
