"""The executor on Slurm: one run of one experiment waits in its process while a job works, or leaves the job at work.

What the job of a request is and what its end means is `request_job.py`; runs over many experiments are `bulk_run.py`,
runs that leave are `suspend/`.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Final

from morphseq_dagster.cluster.connection import Contact, log
from morphseq_dagster.cluster.job_handle import JobHandle, JobVerdict
from morphseq_dagster.cluster.open_jobs import find_open_jobs, recall_job
from morphseq_dagster.cluster.outcome import ACTIVE
from morphseq_dagster.cluster.poller import JobStatus, Watch
from morphseq_dagster.cluster.request_job import RequestJob
from morphseq_dagster.engine.contract.step import StepRequest, StepSpec
from morphseq_dagster.engine.executors.protocol import Committed, Report, WorkLeft, stay_silent
from morphseq_dagster.engine.executors.runner_outcome import relay_line
from morphseq_dagster.engine.layout import Layout
from morphseq_dagster.engine.storage.records import Record
from morphseq_dagster.settings.slurm import SLURM, SlurmSettings

_TICK_S: Final = 0.25
_CHUNK: Final = 256 * 1024
_LINES_PER_PUMP: Final = 100
_LONGEST: Final = 2000


class SuspendedRun(WorkLeft):
    """A job works on the request and nobody waits for it; the run comes back when the job has ended.

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
        self.settings = settings
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
        SuspendedRun
            When this executor leaves the job at work.
        """
        job = self.make_job(request)
        try:
            with termination_raises():
                return self._run(job, progress=progress)
        except SuspendedRun:
            raise
        except BaseException as error:
            job.cancel()
            known = job.record_failure(error)
            if known is error:
                raise
            raise known from None

    def make_job(self, request: StepRequest) -> RequestJob:
        """Make the job of a request, for callers who wait in their own way."""
        return RequestJob(self.settings, pipeline=self._pipeline, request=request)

    def _run(self, job: RequestJob, *, progress: Report) -> Committed:
        """Submit or take over, wait, and try again where `retry.py` allows it."""
        contact = Contact()
        contact.retried(job.clear_others)
        while True:
            handle = contact.retried(job.ensure)
            if not isinstance(handle, JobHandle):
                return job.take_done()
            done = job.settle(handle, verdict=self._await_end(job, handle=handle, contact=contact, progress=progress))
            if done is not None:
                return done

    def _await_end(self, job: RequestJob, *, handle: JobHandle, contact: Contact, progress: Report) -> JobVerdict:
        watch = job.watch(handle)
        relay = LogRelay(handle.attempt.path("log.txt"), progress=progress)
        status: JobStatus | None = None
        try:
            while watch.wait(_TICK_S) is None:
                relay.pump()
                status = log_status(watch, before=status)
                contact.update(status.trouble)
                if self._suspend and (status.state in ACTIVE or status.trouble):
                    job.forget(watch)
                    if not watch.ended.is_set():  # else the end was seen at the last moment
                        raise SuspendedRun(handle, request=job.request)
        finally:
            job.forget(watch)
            relay.pump(last=True)
        if watch.verdict is None:  # `wait` returned because it was set
            raise RuntimeError("a wait ended without a verdict")
        return watch.verdict


class LogRelay:
    """Passes a growing log on, each line once and not faster than people read; progress messages become progress.

    Parameters
    ----------
    path
        The log; it need not be there yet.
    progress
        Called with how far the step is.
    """

    def __init__(self, path: Path, *, progress: Report) -> None:
        self._progress = progress
        self._path = path
        self._offset = 0
        self._rest = b""

    def pump(self, *, last: bool = False) -> None:
        """Pass on what is new; the file is opened anew, as network disks need it."""
        data = self._rest + self._read(whole=last)
        lines = data.split(b"\n")
        self._rest = lines.pop()
        if last and self._rest:
            lines.append(self._rest)
            self._rest = b""
        plain = [line for line in lines if not line.startswith(b"{")]
        left_out = max(0, len(plain) - _LINES_PER_PUMP)
        dropped = 0
        for line in lines:
            if dropped < left_out and not line.startswith(b"{"):
                dropped += 1
                continue
            relay_line(line[:_LONGEST] + b"\n", progress=self._progress)
        if left_out:
            sys.stderr.write(f"slurm: {left_out} lines left out here, all are in {self._path}\n")

    def _read(self, *, whole: bool) -> bytes:
        try:
            with self._path.open("rb") as handle:
                handle.seek(self._offset)
                data = handle.read(-1 if whole else _CHUNK)
        except FileNotFoundError:
            return b""
        self._offset += len(data)
        return data


def log_status(watch: Watch, *, before: JobStatus | None) -> JobStatus:
    """Log the state of a job where it has changed; return it."""
    status = watch.status
    if before is None or (status.state, status.reason, status.node) != (before.state, before.reason, before.node):
        words = [status.state or "not known yet", status.reason, f"on {status.node}" if status.node else ""]
        log(f"job {watch.handle.job}: {', '.join(word for word in words if word)}")
    return status


@contextmanager
def termination_raises() -> Iterator[None]:
    """Let TERM interrupt the wait as Ctrl-C does, unless Dagster handles it already."""
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
