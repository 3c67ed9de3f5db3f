"""The cluster place: one run of one experiment waits in its process while a job works.

Holds the way from a request to a job and back: what the job is, waiting for it, cancelling it, what its end means here.
The protocol that keeps executions at one is `morphseq_dagster.slurm`; the step's claim is held by the waiting process.
"""

from __future__ import annotations

import hashlib
import json
import logging
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Final, TypeVar

from morphseq_dagster.errors import MorphseqError, PermanentError, TransientError, restore
from morphseq_dagster.layout import Layout
from morphseq_dagster.places.execution import Committed, fail_request
from morphseq_dagster.places.log_relay import LogRelay
from morphseq_dagster.places.outcome import DEFAULT_REGISTRY, SLURM, read_outcome
from morphseq_dagster.settings import SlurmSettings
from morphseq_dagster.slurm.client import Client, Done, Live, Patience, Verdict, outcomes_of_run, resources_of
from morphseq_dagster.slurm.commands import Scheduler
from morphseq_dagster.slurm.errors import UnreachableError
from morphseq_dagster.slurm.folder import Attempt, JobRoot
from morphseq_dagster.slurm.job import ATTEMPT, JobSpec, Resources
from morphseq_dagster.slurm.local import LocalTransport
from morphseq_dagster.slurm.outcome import Outcome
from morphseq_dagster.slurm.poller import Poller, Status, Watch
from morphseq_dagster.slurm.retry import RetryPolicy, plan_retry
from morphseq_dagster.slurm.ssh import SshTransport
from morphseq_dagster.slurm.usage import JobFacts, collect_facts
from morphseq_dagster.steps.contract import StepRequest, StepSpec
from morphseq_dagster.storage.commit import roll_forward
from morphseq_dagster.storage.records import Record, encode, read_record

_T = TypeVar("_T")
_LOG = logging.getLogger(__name__)
_TICK_S: Final = 0.25
_RECONNECT_S: Final = 5.0
_WARN_AFTER_S: Final = 300.0
_FINAL: Final = frozenset((Outcome.FAILED, Outcome.CONFIG, Outcome.KILLED, Outcome.CANCELLED))
_REMEDIES: Final = {
    Outcome.OOM: "ask for more memory in places.slurm",
    Outcome.TIMEOUT: "ask for more time in places.slurm; finished wells are kept, a new run goes on from there",
    Outcome.KILLED: "more memory is worth a try; else ask the cluster's people who killed the job",
    Outcome.CANCELLED: "somebody cancelled the job; run again when that was no decision against it",
    Outcome.CONFIG: "look whether the nodes see the data root, and the Python and the preamble named in places.slurm",
    Outcome.CRASH: "native code crashed, on two nodes or on one twice; see the log",
    Outcome.NODE: "nodes were lost more than once; run again later, or exclude them in places.slurm",
    Outcome.PREEMPTED: "ask for another partition or quality of service in places.slurm",
    Outcome.LOST: "look for the job with `sacct`; run again when it is gone",
}
_CONNECTIONS: dict[str, tuple[Client, Poller]] = {}
_CONNECTING = threading.Lock()


class SlurmPlace:
    """A Slurm cluster that sees the data root.

    Parameters
    ----------
    settings
        Section `places.slurm` of the machine settings.
    registry
        `module:attribute` of the registry that the runner looks the step up in.
    """

    name = SLURM

    def __init__(self, settings: SlurmSettings, *, registry: str = DEFAULT_REGISTRY) -> None:
        self._settings = settings
        self._registry = registry

    def run(self, spec: StepSpec, *, request: StepRequest) -> Committed:
        """Run a request as a job and wait for it; a job that works on it already is taken over.

        Whatever interrupts the wait cancels the job.

        Raises
        ------
        PermanentError
            When the job failed by itself, was cancelled or rejected.
        TransientError
            When the cluster failed it, also after the tries that the client makes by itself.
        """
        wait = _Wait(self._settings, registry=self._registry, request=request)
        try:
            with _termination_raises():
                return wait.run()
        except BaseException as error:
            wait.cancel()
            if not isinstance(error, _Told):
                fail_request(wait.layout, request=request, error=error)
                raise
            # The runner has recorded what the step itself raised.
            raise error.told from None


class _Told(Exception):  # noqa: N818 - a wrapper, never seen outside
    """An error that the runner has recorded."""

    def __init__(self, told: MorphseqError) -> None:
        super().__init__(str(told))
        self.told = told


class _Wait:
    """One request on its way."""

    def __init__(self, settings: SlurmSettings, *, registry: str, request: StepRequest) -> None:
        self._settings, self._request = settings, request
        self.layout = Layout(Path(request.data_root))
        self._client, self._poller = connect(settings, data_root=self.layout.data_root)
        self._group = (request.step, request.experiment)
        self._job = make_job(settings, request=request, registry=registry)
        self._before = self._read()
        self._attempt: Attempt | None = None
        self._contact_lost: float | None = None

    def run(self) -> Committed:
        """Submit or take over, wait, try again where the table allows it."""
        self._retried(self._clear_others)
        while True:
            live = self._retried(self._ensure)
            verdict = self._await_end(live) if isinstance(live, Live) else self._take_done()
            live = live if isinstance(live, Live) else self._as_live()
            record = self._find_record()
            if record is not None:
                return Committed(self._request, record, job=self._facts(live, verdict))
            again = self._plan_retry(live, verdict)
            if again is None:
                raise self._error(live, verdict)
            self._say(f"job {live.job} ended as {verdict.outcome.value} ({verdict.reason}): trying again")
            self._job = replace(self._job, resources=again)

    def cancel(self) -> None:
        """Cancel the job of this wait, if one may be there; never raises for lack of contact."""
        attempt = self._attempt
        if attempt is None or attempt.is_closed:
            return
        try:
            self._client.cancel([attempt])
            self._client.await_cancelled([attempt], done=self._is_done)
        except UnreachableError as error:
            self._say(f"the job of {attempt.folder} may still be there: {error.found}; `morphseq jobs` shows it")

    def _ensure(self) -> Live | Done:
        return self._client.ensure(
            self._job, done=self._is_done, run_id=self._request.run_id, on_attempt=self._note_attempt
        )

    def _note_attempt(self, attempt: Attempt) -> None:
        self._attempt = attempt

    def _clear_others(self) -> None:
        """Cancel jobs for what is no longer asked of this step: we hold its claim, so nobody waits for them."""
        others = [attempt for _, key, attempt in self._client.root.open_attempts(self._group) if key != self._job.key]
        if others:
            self._say(f"cancelling {len(others)} jobs for an earlier request of {self._request.step}")
            self._client.cancel(others)
            self._client.await_cancelled(others)
            roll_forward(self.layout, step=self._request.step, experiment=self._request.experiment)

    def _await_end(self, live: Live) -> Verdict:
        verb = "taken over" if live.adopted else "submitted"
        self._say(
            f"job {live.job} {verb} (attempt {live.attempt.number}, {live.attempt.token}) in {live.attempt.folder}"
        )
        watch = self._poller.watch(live, done=self._is_done)
        relay = LogRelay(live.attempt.path("log.txt"))
        status: Status | None = None
        try:
            while watch.wait(_TICK_S) is None:
                relay.pump()
                status = self._tell_status(watch, before=status)
        finally:
            self._poller.forget(watch)
            relay.pump(last=True)
        if watch.verdict is None:  # `wait` returned because it was set
            raise RuntimeError("a wait ended without a verdict")
        return watch.verdict

    def _take_done(self) -> Verdict:
        """Close what ended while nobody watched."""
        live = self._as_live()
        verdict = self._client.judge(live, done=True, look=None)
        if verdict is None:
            raise RuntimeError("what is done has a verdict")
        return verdict

    def _as_live(self) -> Live:
        attempt = self._client.root.attempts(self._group, key=self._job.key)[-1]
        return Live(self._job, attempt, attempt.job or "", adopted=True)

    def _tell_status(self, watch: Watch, *, before: Status | None) -> Status:
        status = watch.status
        job = watch.live.job
        if before is None or (status.state, status.reason, status.node) != (before.state, before.reason, before.node):
            words = [status.state or "not known yet", status.reason, f"on {status.node}" if status.node else ""]
            self._say(f"job {job}: {', '.join(word for word in words if word)}")
        self._tell_contact(status.trouble)
        return status

    def _tell_contact(self, trouble: str) -> None:
        if not trouble:
            if self._contact_lost is not None:
                self._say("the cluster answers again")
            self._contact_lost = None
        elif self._contact_lost is None:
            self._contact_lost = time.monotonic()
            self._say(f"no contact with the cluster, waiting: {trouble}")
        elif time.monotonic() - self._contact_lost > _WARN_AFTER_S:
            self._contact_lost = time.monotonic()
            _LOG.warning("still no contact with the cluster after %.0f s: %s", _WARN_AFTER_S, trouble)

    def _retried(self, action: Callable[[], _T]) -> _T:
        """Do something for which the cluster must answer; lost contact is waited out."""
        while True:
            try:
                done = action()
            except UnreachableError as error:
                self._tell_contact(error.found)
                time.sleep(_RECONNECT_S)
            else:
                self._tell_contact("")
                return done

    def _is_done(self) -> bool:
        """Whether this request's job has published: a new record that answers, or the one that its runner named."""
        record = self._read()
        if record is None or record.request_key != self._request.key:
            return False
        if record != self._before:
            return True
        attempts = self._client.root.attempts(self._group, key=self._job.key)
        if not attempts or attempts[-1].is_closed:
            return False
        return read_outcome(attempts[-1].path("outcome.json")).record == record

    def _find_record(self) -> Record | None:
        """Finish what a job that is over had begun to publish; its record, if it answers."""
        roll_forward(self.layout, step=self._request.step, experiment=self._request.experiment)
        return self._read() if self._is_done() or self._was_named() else None

    def _was_named(self) -> bool:
        """Whether the newest attempt's runner said that it published what lies there."""
        attempts = self._client.root.attempts(self._group, key=self._job.key)
        named = read_outcome(attempts[-1].path("outcome.json")).record if attempts else None
        return named is not None and named == self._read()

    def _read(self) -> Record | None:
        return read_record(self.layout, primary=self.layout.absolute(self._request.output))

    def _plan_retry(self, live: Live, verdict: Verdict) -> Resources | None:
        attempts = self._client.root.attempts(self._group, key=self._job.key)
        ends = outcomes_of_run(attempts, run_id=self._request.run_id)
        step = self._settings.steps.get(self._request.step)
        return plan_retry(
            verdict.outcome,
            earlier=ends[:-1],
            resources=resources_of(live.attempt) or self._job.resources,
            node=verdict.node,
            policy=RetryPolicy(more_memory=step.more_memory if step is not None else True),
        )

    def _error(self, live: Live, verdict: Verdict) -> Exception:
        told = read_outcome(live.attempt.path("outcome.json")).error
        if verdict.outcome is Outcome.FAILED and told is not None:
            return _Told(restore(told))
        lines = [line for line in verdict.log.splitlines() if line.strip()][-5:]
        log = "; last lines of its log: " + " | ".join(lines) if lines else ""
        kind = PermanentError if verdict.outcome in _FINAL else TransientError
        said = ", ".join(part for part in (verdict.state, verdict.reason) if part)
        found = verdict.outcome.value + (f" ({said})" if said else "") + (f" on {verdict.node}" if verdict.node else "")
        return kind(
            expected=f"job {live.job or 'of unknown number'} to finish step {self._request.step}",
            found=found + log,
            where=f"experiment {self._request.experiment}, {live.attempt.path('log.txt')}",
            remedy=_REMEDIES.get(verdict.outcome, "read the log"),
        )

    def _facts(self, live: Live, verdict: Verdict) -> JobFacts:
        return collect_facts(live, verdict=verdict)

    def _say(self, text: str) -> None:
        _LOG.info(text)
        sys.stderr.write(f"slurm: {text}\n")
        sys.stderr.flush()


def make_job(settings: SlurmSettings, *, request: StepRequest, registry: str) -> JobSpec:
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
    runner = (settings.python, "-P", "-u", "-m", "morphseq_dagster.places.runner", f"{ATTEMPT}/request.json")
    return JobSpec(
        group=(request.step, request.experiment),
        key=key,
        command=(*runner, "--registry", registry, "--place", SLURM, *files),
        request=encode(sent),
        resources=settings.resources_of(request.step, experiment=request.experiment),
        environment=settings.environment(),
        requeue=settings.requeue,
        warn_s=settings.warn_s,
    )


def connect(settings: SlurmSettings, *, data_root: Path) -> tuple[Client, Poller]:
    """Client and poller of a cluster and a data root: one of each, and one login, per process."""
    connection = [settings.transport, settings.ssh and settings.ssh.model_dump(), settings.commands]
    patience = Patience(grace_s=settings.grace_s, lost_s=settings.lost_s, settle_s=settings.settle_s)
    there = settings.data_root or str(data_root)
    name = json.dumps([connection, str(data_root), there, patience.__dict__])
    with _CONNECTING:
        if name not in _CONNECTIONS:
            transport = LocalTransport() if settings.ssh is None else SshTransport(settings.ssh.address())
            scheduler = Scheduler(transport, folder=settings.commands)
            root = JobRoot(Layout(data_root).jobs, there=str(Layout(Path(there)).jobs))
            client = Client(scheduler, root=root, patience=patience)
            _CONNECTIONS[name] = (client, Poller(client))
        return _CONNECTIONS[name]


@contextmanager
def _termination_raises() -> Iterator[None]:
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
