"""The cluster place: one run of one experiment waits in its process while a job works, or leaves it at work.

Holds the waiting. What a request's job is and what its end means is a request job's (`request_job`).
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import Final

from morphseq_dagster.cluster.connection import Contact, log
from morphseq_dagster.cluster.job_handle import JobHandle, JobVerdict
from morphseq_dagster.cluster.log_relay import LogRelay
from morphseq_dagster.cluster.open_jobs import find_open_jobs, recall_job
from morphseq_dagster.cluster.outcome import ACTIVE
from morphseq_dagster.cluster.poller import JobStatus, Watch
from morphseq_dagster.cluster.request_job import RequestJob
from morphseq_dagster.engine.contract.step import StepRequest, StepSpec
from morphseq_dagster.engine.executors.protocol import Committed, Report, WorkLeft, stay_silent
from morphseq_dagster.engine.layout import Layout
from morphseq_dagster.engine.storage.records import Record
from morphseq_dagster.settings.slurm import SLURM, SlurmSettings

_TICK_S: Final = 0.25


class SuspendedRun(WorkLeft):
    """A job works on the request and nobody waits: whoever runs the step leaves, and comes back when the job has ended.

    Parameters
    ----------
    handle
        The job.
    request
        What it works on.
    """

    def __init__(self, handle: JobHandle, *, request: StepRequest) -> None:
        super().__init__(f"job {handle.job} works on {request.step} of {request.experiment}")
        self.handle, self.request = handle, request


class SlurmExecutor:
    """A Slurm cluster that sees the data root.

    Parameters
    ----------
    settings
        Section `places.slurm` of the machine settings.
    pipeline
        `module:attribute` of the pipeline that the runner looks the step up in.
    suspend
        Leave a job at work (`SuspendedRun`) instead of waiting for its end.
    """

    name = SLURM

    def __init__(self, settings: SlurmSettings, *, pipeline: str, suspend: bool = False) -> None:
        self._settings = settings
        self._pipeline = pipeline
        self._suspend = suspend

    def is_at_work(self, layout: Layout, *, step: str, experiment: str) -> bool:
        """Whether a job may be at work on a step."""
        return bool(find_open_jobs(layout, step=step, experiment=experiment))

    def recall(self, layout: Layout, *, record: Record, run_id: str) -> Mapping[str, str | int | float] | None:
        """Facts of the job of a run that published a record; None when none of this run's jobs did."""
        return recall_job(layout, record=record, run_id=run_id)

    def run(self, spec: StepSpec, *, request: StepRequest, progress: Report = stay_silent) -> Committed:
        """Run a request as a job and wait for it; a job that works on it already is taken over.

        Whatever interrupts the wait cancels the job.

        Raises
        ------
        PermanentError
            When the job failed by itself, was cancelled or rejected.
        TransientError
            When the cluster failed it, also after the tries that the client makes by itself.
        ParkedRun
            When the job is at work and this executor leaves it so.
        """
        request_job = self.request_job(request)
        try:
            with termination_raises():
                return self._run(request_job, progress=progress)
        except SuspendedRun:
            raise
        except BaseException as error:
            request_job.cancel()
            known = request_job.record_failure(error)
            if known is error:
                raise
            raise known from None

    @property
    def max_jobs(self) -> int:
        """Most jobs at once of a run over many experiments."""
        return self._settings.max_jobs

    @property
    def settings(self) -> SlurmSettings:
        """Section `places.slurm` of the machine settings."""
        return self._settings

    def request_job(self, request: StepRequest) -> RequestJob:
        """Make the request job of a request, for callers who wait in their own way."""
        return RequestJob(self._settings, pipeline=self._pipeline, request=request)

    def _run(self, request_job: RequestJob, *, progress: Report) -> Committed:
        """Submit or take over, wait, try again where the table allows it."""
        contact = Contact()
        contact.retried(request_job.clear_others)
        while True:
            handle = contact.retried(request_job.ensure)
            if not isinstance(handle, JobHandle):
                return request_job.take_done()
            done = request_job.settle(
                handle, verdict=self._await_end(request_job, handle=handle, contact=contact, progress=progress)
            )
            if done is not None:
                return done

    def _await_end(
        self, request_job: RequestJob, *, handle: JobHandle, contact: Contact, progress: Report
    ) -> JobVerdict:
        watch = request_job.watch(handle)
        relay = LogRelay(handle.attempt.path("log.txt"), progress=progress)
        status: JobStatus | None = None
        try:
            while watch.wait(_TICK_S) is None:
                relay.pump()
                status = log_status(watch, before=status)
                contact.tell(status.trouble)
                if self._suspend and (status.state in ACTIVE or status.trouble):
                    request_job.forget(watch)
                    if not watch.ended.is_set():  # else the end was seen at the last moment
                        raise SuspendedRun(handle, request=request_job.request)
        finally:
            request_job.forget(watch)
            relay.pump(last=True)
        if watch.verdict is None:  # `wait` returned because it was set
            raise RuntimeError("a wait ended without a verdict")
        return watch.verdict


def log_status(watch: Watch, *, before: JobStatus | None) -> JobStatus:
    """Say how a job stands where that is news; the present status."""
    status = watch.status
    if before is None or (status.state, status.reason, status.node) != (before.state, before.reason, before.node):
        words = [status.state or "not known yet", status.reason, f"on {status.node}" if status.node else ""]
        log(f"job {watch.handle.job}: {', '.join(word for word in words if word)}")
    return status


@contextmanager
def termination_raises() -> Iterator[None]:
    """Let TERM interrupt the wait as Ctrl-C does, unless somebody (Dagster) has made other arrangements."""
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        del frame
        raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
