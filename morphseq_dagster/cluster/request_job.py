"""Request jobs: one request on its way to a cluster and back, without waiting.

Whoever waits, and in whatever way (`executor.py`, `bulk_run.py`), finds here what the job of a request is, how it is
submitted or taken over, what its end means, whether another attempt follows, and how it is cancelled. That at most one
job works on a request is the business of `client.py`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final

from morphseq_dagster.cluster.attempt_folder import Attempt
from morphseq_dagster.cluster.connection import connect, default_resources, log
from morphseq_dagster.cluster.errors import UnreachableError
from morphseq_dagster.cluster.job import ATTEMPT, JobSpec
from morphseq_dagster.cluster.job_files import outcomes_of_run, read_result, resources_of
from morphseq_dagster.cluster.job_handle import AlreadyDone, JobHandle, JobVerdict
from morphseq_dagster.cluster.orphans import has_result, note_adoption
from morphseq_dagster.cluster.outcome import JobOutcome
from morphseq_dagster.cluster.pilot.job import PilotTask, submit_pilot
from morphseq_dagster.cluster.poller import Watch
from morphseq_dagster.cluster.retry import plan_retry
from morphseq_dagster.cluster.usage import collect_facts
from morphseq_dagster.engine.contract.step import StepRequest
from morphseq_dagster.engine.executors.environment import expected_file, store_description
from morphseq_dagster.engine.executors.execution import fail_request
from morphseq_dagster.engine.executors.protocol import Committed
from morphseq_dagster.engine.layout import Layout
from morphseq_dagster.engine.storage.commit import roll_forward
from morphseq_dagster.engine.storage.records import Record, encode, read_record
from morphseq_dagster.engine.storage.step_locks import name_attempt
from morphseq_dagster.errors import MorphseqError, PermanentError, TransientError, restore
from morphseq_dagster.settings.job_values import Resources
from morphseq_dagster.settings.slurm import SLURM, SlurmSettings

_FINAL: Final = frozenset((JobOutcome.FAILED, JobOutcome.CONFIG, JobOutcome.KILLED, JobOutcome.CANCELLED))
_REMEDIES: Final = {
    JobOutcome.OOM: "ask for more memory in places.slurm",
    JobOutcome.TIMEOUT: "ask for more time in places.slurm; finished wells are kept, a new run goes on from there",
    JobOutcome.KILLED: "more memory is worth a try; else ask the cluster's people who killed the job",
    JobOutcome.CANCELLED: "somebody cancelled the job; run again when that was no decision against it",
    JobOutcome.CONFIG: "check that the nodes see the data root, and the Python and the preamble of places.slurm",
    JobOutcome.CRASH: "native code crashed, on two nodes or on one twice; see the log",
    JobOutcome.NODE: "nodes were lost more than once; run again later, or exclude them in places.slurm",
    JobOutcome.PREEMPTED: "ask for another partition or quality of service in places.slurm",
    JobOutcome.LOST: "look for the job with `sacct`; run again when it is gone",
}


class RecordedError(Exception):
    """Wrapper of an error that the runner on the node has recorded already; callers raise `error`."""

    def __init__(self, error: MorphseqError) -> None:
        super().__init__(str(error))
        self.error = error


class RequestJob:
    """One request on its way to the cluster and back.

    Parameters
    ----------
    settings
        Section `places.slurm` of the machine settings.
    pipeline
        `module:attribute` of the pipeline that the runner looks the step up in.
    request
        What is asked. Whoever makes its job holds the step's lock.
    """

    def __init__(self, settings: SlurmSettings, *, pipeline: str, request: StepRequest) -> None:
        self.request = request
        self.layout = Layout(Path(request.data_root))
        self._settings = settings
        self._client, self._poller = connect(settings, data_root=self.layout.data_root)
        self._group = (request.step, request.experiment)
        if settings.environment == "same":
            store_description(self.layout)
        self._job = make_job(settings, request=request, pipeline=pipeline)
        self._before = self._read()
        self._attempt: Attempt | None = None

    def clear_others(self) -> None:
        """Cancel jobs for other requests of this step: the caller holds its lock, so nobody waits for them.

        Raises
        ------
        UnreachableError
            When the cluster does not answer.
        """
        others = [attempt for _, key, attempt in self._client.root.open_attempts(self._group) if key != self._job.key]
        if others:
            log(f"cancelling {len(others)} jobs for an earlier request of {self.request.step}")
            self._client.cancel(others)
            self._client.await_cancelled(others)
            roll_forward(self.layout, step=self.request.step, experiment=self.request.experiment)

    def ensure(self, *, wait: bool = True) -> JobHandle | AlreadyDone:
        """Submit the job, take over the one that works on this request, or find the result.

        Raises
        ------
        UnreachableError
            When the cluster does not answer: call again.
        UndecidedError
            When it is not known yet whether an earlier job was submitted, and the caller does not `wait`: call again.
        RejectedError
            When the scheduler does not take the job.
        """
        found = self._client.ensure(
            self._job, done=self.is_done, run_id=self.request.run_id, on_attempt=self._note_attempt, wait=wait
        )
        if isinstance(found, JobHandle):
            if found.adopted:
                note_adoption(found.attempt, run_id=self.request.run_id)
            verb = "taken over" if found.adopted else "submitted"
            number, token, folder = found.attempt.number, found.attempt.token, found.attempt.folder
            log(f"job {found.job} {verb} (attempt {number}, {token}) in {folder}")
        return found

    @property
    def resources(self) -> Resources:
        """What its next job asks for."""
        return self._job.resources

    def is_fresh(self) -> bool:
        """Whether nothing has been submitted for it, so that it may share an allocation with others."""
        return self._client.root.next_attempt(self._group, key=self._job.key) is not None and not self.is_done()

    def watch(self, handle: JobHandle) -> Watch:
        """Start to watch the job; the caller ends that with `forget`."""
        return self._poller.watch(handle, done=self.is_done)

    def forget(self, watch: Watch) -> None:
        """Stop watching a job."""
        self._poller.forget(watch)

    def settle(self, handle: JobHandle, *, verdict: JobVerdict) -> Committed | None:
        """Take the end of the job: a published result, or None when another attempt is to follow (`ensure` makes it).

        Raises
        ------
        RecordedError
            What the step raised, recorded by its runner.
        PermanentError, TransientError
            When the job ended otherwise and the table of retries allows no other attempt.
        """
        record = self._find_record()
        if record is not None:
            return Committed(self.request, record, facts=collect_facts(handle.attempt, verdict=verdict))
        again = self._plan_retry(handle, verdict)
        if again is None:
            raise self._error(handle, verdict)
        log(f"job {handle.job} ended as {verdict.outcome} ({verdict.reason}): trying again")
        self._job = replace(self._job, resources=again)
        return None

    def take_done(self) -> Committed:
        """Return what was published while nobody watched, with the facts of its job.

        Raises
        ------
        RuntimeError
            When it is not done.
        """
        attempt = self._attempts()[-1]
        handle = JobHandle(self._job, attempt, attempt.job or "", adopted=True)
        verdict = self._client.judge(handle, done=True, view=None)
        done = None if verdict is None else self.settle(handle, verdict=verdict)
        if done is None:
            raise RuntimeError("what is done has a verdict and a record")
        return done

    def cancel(self) -> None:
        """Cancel the job, if one may be there; never raises for lack of contact."""
        cancel_requests([self])

    def followers_of(self, handle: JobHandle) -> list[Attempt]:
        """Attempts at later steps that the job began by itself for this run, and that are not closed."""
        pilot = handle.attempt.pilot
        if pilot is None or pilot.is_closed:
            return []
        own = self.request.run_id
        return [one for one in pilot.tasks() if not one.is_closed and one.is_follower and one.run_id == own]

    def record_failure(self, error: BaseException) -> BaseException:
        """Record why the request failed, unless the runner did so; return the error to raise."""
        if isinstance(error, RecordedError):
            return error.error
        fail_request(self.layout, request=self.request, error=error)
        return error

    def is_done(self) -> bool:
        """Whether this request's job has published: a new record that answers, or the one that its runner named."""
        record = self._read()
        if record is None or record.request_key != self.request.key:
            return False
        if record != self._before:
            return True
        attempts = self._attempts()
        return bool(attempts) and not attempts[-1].is_closed and read_result(attempts[-1]).record == record

    def _note_attempt(self, attempt: Attempt) -> None:
        self._attempt = attempt
        lock = self.layout.lock(self.request.step, experiment=self.request.experiment)
        name_attempt(lock, attempt=self.layout.relative(attempt.folder))

    def _find_record(self) -> Record | None:
        """Finish what a job that is over had begun to publish; its record, if it answers."""
        roll_forward(self.layout, step=self.request.step, experiment=self.request.experiment)
        if self.is_done():
            return self._read()
        attempts = self._attempts()
        named = read_result(attempts[-1]).record if attempts else None
        return named if named is not None and named == self._read() else None

    def _attempts(self) -> list[Attempt]:
        return self._client.root.attempts(self._group, key=self._job.key)

    def _read(self) -> Record | None:
        return read_record(self.layout, primary=self.layout.absolute(self.request.output))

    def _plan_retry(self, handle: JobHandle, verdict: JobVerdict) -> Resources | None:
        ends = outcomes_of_run(self._attempts(), run_id=self.request.run_id)
        step = self._settings.steps.get(self.request.step)
        return plan_retry(
            verdict.outcome,
            earlier=ends[:-1],
            resources=resources_of(handle.attempt) or self._job.resources,
            node=verdict.node,
            more_memory=step is None or step.more_memory,
        )

    def _error(self, handle: JobHandle, verdict: JobVerdict) -> Exception:
        recorded = read_result(handle.attempt).error
        if verdict.outcome is JobOutcome.FAILED and recorded is not None:
            return RecordedError(restore(recorded))
        lines, words = verdict.last_lines(5), verdict.words
        ending = f"; last lines of its log: {lines}" if lines else ""
        kind = PermanentError if verdict.outcome in _FINAL else TransientError
        found = f"{verdict.outcome}{f' ({words})' if words else ''}{f' on {verdict.node}' if verdict.node else ''}"
        return kind(
            expected=f"job {handle.job or 'of unknown number'} to finish step {self.request.step}",
            found=found + ending,
            where=f"experiment {self.request.experiment}, {handle.attempt.path('log.txt')}",
            remedy=_REMEDIES.get(verdict.outcome, "read the log"),
        )


def submit_together(
    request_jobs: Sequence[RequestJob], *, each_s: float, workers: int, then: tuple[str, ...] = ()
) -> list[JobHandle | None]:
    """Submit requests with equal resources as one pilot job; None for those that somebody else has begun meanwhile.

    Parameters
    ----------
    request_jobs
        Of one run and one cluster.
    each_s, workers
        Seconds that each is expected to take, and how many are at work at once.
    then
        Steps that the job goes on with by itself, for each of the experiments.

    Raises
    ------
    UnreachableError
        When the cluster does not answer: `ensure` of each finds the job, or gives it up.
    RejectedError
        When the scheduler does not take the job; nothing is left at work.
    """
    first = request_jobs[0]
    settings = first._settings
    handles = submit_pilot(
        first._client,
        [PilotTask(request_job._job, request_job._note_attempt, then=then) for request_job in request_jobs],
        workers=workers,
        python=settings.python,
        each_s=each_s,
        time_limit=settings.pack_time,
        run_id=first.request.run_id,
    )
    jobs = sorted({handle.job for handle in handles if handle is not None})
    steps = " and on to ".join([first.request.step, *then[-1:]])
    whose = first.request.experiment if len(handles) == 1 else f"{sum(map(bool, handles))} experiments"
    log(f"job {', '.join(jobs)} submitted for {steps} of {whose}")
    return handles


def cancel_requests(request_jobs: Sequence[RequestJob], *, chains: Sequence[tuple[RequestJob, JobHandle]] = ()) -> None:
    """Cancel jobs of one cluster, all in one call; never raises for lack of contact.

    Parameters
    ----------
    request_jobs
        Those whose work is not wanted any more.
    chains
        Jobs that may have gone on to steps without a request job yet, with the request job that each began with.
    """
    working: dict[Attempt, Callable[[], bool]] = {
        one._attempt: one.is_done for one in request_jobs if one._attempt is not None and not one._attempt.is_closed
    }
    for request_job, handle in chains:
        for attempt in request_job.followers_of(handle):
            working.setdefault(attempt, partial(has_result, attempt, layout=request_job.layout))
    if not working:
        return
    client = (*request_jobs, *(request_job for request_job, _ in chains))[0]._client
    try:
        client.cancel(list(working))
        client.await_cancelled(list(working), done=lambda attempt: working[attempt]())
    except UnreachableError as error:
        for attempt in working:
            if not attempt.is_closed:
                log(f"the job of {attempt.folder} may still be there: {error.found}; `morphseq jobs` shows it")


def make_job(settings: SlurmSettings, *, request: StepRequest, pipeline: str) -> JobSpec:
    """Describe the job of a request.

    Raises
    ------
    PermanentError
        For names that cannot be plain paths or arguments.
    """
    there = settings.data_root or request.data_root
    sent = request.model_copy(update={"data_root": there})
    # A forced request must not be answered by a job that was not asked to compute everything again.
    key = hashlib.sha256(f"{request.key} forced".encode()).hexdigest() if request.force else request.key
    files = ("--outcome", f"{ATTEMPT}/outcome.json", "--usage", f"{ATTEMPT}/usage.json")
    runner = (settings.python, "-P", "-u", "-m", "morphseq_dagster.cluster.runner", f"{ATTEMPT}/request.json")
    return JobSpec(
        group=(request.step, request.experiment),
        key=key,
        command=(*runner, "--pipeline", pipeline, "--place", SLURM, *files, *_surroundings(settings, request=request)),
        request=encode(sent),
        resources=settings.resources_of(request.step, experiment=request.experiment, base=default_resources(settings)),
        environment=settings.surroundings(),
        requeue=settings.requeue,
        warn_s=settings.warn_s,
    )


def _surroundings(settings: SlurmSettings, *, request: StepRequest) -> tuple[str, ...]:
    """Arguments of the runner: the environment that it must find, and the preamble that the script reads."""
    found: tuple[str, ...] = ()
    name = expected_file(settings.environment, layout=Layout(Path(request.data_root)))
    if name is not None:
        there = Layout(Path(settings.data_root or request.data_root))
        found += ("--environment", str(there.environments / name))
    if settings.preamble is not None:
        found += ("--preamble", settings.preamble)
    return found
