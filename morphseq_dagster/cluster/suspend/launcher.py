"""Suspending run launcher: starts a process for each run, and another one when a suspended run may go on.

This is Dagster's side, chosen in dagster.yaml: starting, health, resuming and terminating. It needs run monitoring,
whose daemon asks for the health of every run and resumes those that have none. What a run waits for is in its state
(`state.py`), and whether its job has ended is asked by the monitor (`monitor.py`).
"""

from __future__ import annotations

import contextlib
import logging
import os
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Self

import dagster as dg
from dagster._core.launcher.base import (
    CheckRunHealthResult,
    LaunchRunContext,
    ResumeRunContext,
    RunLauncher,
    WorkerStatus,
)
from dagster._core.origin import JobPythonOrigin
from dagster._grpc.types import ExecuteRunArgs, ResumeRunArgs
from dagster._serdes import ConfigurableClass, ConfigurableClassData, serialize_value

from morphseq_dagster.cluster.attempt_folder import Attempt
from morphseq_dagster.cluster.connection import connect
from morphseq_dagster.cluster.errors import UnreachableError
from morphseq_dagster.cluster.suspend.monitor import AwaitedState, SuspendedRunMonitor, attempt_of
from morphseq_dagster.cluster.suspend.state import WorkerState, WorkerStates
from morphseq_dagster.cluster.suspend.worker import AT_WORK, SUSPENDED_TAG
from morphseq_dagster.errors import PermanentError
from morphseq_dagster.settings.slurm import SUSPENSION_VARIABLE

_LOG = logging.getLogger(__name__)
_FAREWELL_S: Final = 10.0
"""Seconds that a terminated process gets before its run is left to end by itself."""
_COUNT_S: Final = 2.0
_SWEEP_S: Final = 3600.0
_KEPT_S: Final = 86400.0
_LOG_TAIL: Final = 4000
# The shell states its own number, then becomes the worker: whoever holds the lock has its number in the lock's file.
_START: Final = ("/bin/sh", "-c", 'echo $$ > "$0" && exec "$@"')


class SuspendingRunLauncher(RunLauncher[dg.DagsterInstance], ConfigurableClass):
    """Starts runs as processes of their own, which leave while a job works for them.

    Parameters
    ----------
    max_workers
        Suspended runs that are resumed wait while this many runs have a process.
    max_crashes
        Processes of a run that may die in a row before the run fails.
    inst_data
        Dagster's own.
    """

    def __init__(
        self, *, max_workers: int = 4, max_crashes: int = 3, inst_data: ConfigurableClassData | None = None
    ) -> None:
        self._max_workers, self._max_crashes, self._inst_data = max_workers, max_crashes, inst_data
        self._children: list[subprocess.Popen[bytes]] = []
        self._opening = threading.Lock()
        self._opened: tuple[WorkerStates, SuspendedRunMonitor] | None = None
        self._counted = (float("-inf"), 0)
        self._unanswered: set[str] = set()
        self._swept = float("-inf")
        super().__init__()  # type: ignore[no-untyped-call]

    @property
    def inst_data(self) -> ConfigurableClassData | None:
        """As Dagster needs it."""
        return self._inst_data

    @classmethod
    def config_type(cls) -> Any:  # noqa: ANN401 - Dagster's own type
        """Settings in dagster.yaml."""
        return {
            "max_workers": dg.Field(dg.IntSource, is_required=False, default_value=4),
            "max_crashes": dg.Field(dg.IntSource, is_required=False, default_value=3),
        }

    @classmethod
    def from_config_value(cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]) -> Self:
        """Make it from dagster.yaml."""
        return cls(inst_data=inst_data, **config_value)

    @property
    def supports_resume_run(self) -> bool:
        """Resumes runs."""
        return True

    @property
    def supports_check_run_worker_health(self) -> bool:
        """Knows how runs are."""
        return True

    @property
    def states(self) -> WorkerStates:
        """States of the runs of this instance."""
        return self._open()[0]

    def cares_for(self, run_id: str) -> bool:
        """Whether a run was started by this launcher, which resumes it when its process is gone."""
        return self.states.read(run_id) is not None

    def launch_run(self, context: LaunchRunContext) -> None:
        """Start the process of a new run.

        Raises
        ------
        PermanentError
            When nobody would resume the run.
        """
        instance, run = self._instance, context.dagster_run
        if not (instance.run_monitoring_enabled and instance.run_monitoring_max_resume_run_attempts > 0):
            raise PermanentError(
                expected="run monitoring that resumes runs",
                found="run_monitoring is off or its max_resume_run_attempts is 0",
                where="dagster.yaml",
                remedy="set run_monitoring.enabled and max_resume_run_attempts (docs/suspended-runs.md)",
            )
        origin = _origin_of(run, context.job_code_origin)
        arguments = ExecuteRunArgs(job_origin=origin, run_id=run.run_id, instance_ref=instance.get_ref())
        with self.states.hold(run.run_id) as lock:
            if lock is None:
                raise RuntimeError(f"a new run {run.run_id} has a process already")
            self.states.write(WorkerState(run_id=run.run_id))
            command = [origin.executable_path, "-m", "dagster", "api", "execute_run", serialize_value(arguments)]
            self._start(run.run_id, command=command, lock=lock)

    def resume_run(self, context: ResumeRunContext) -> None:
        """Start the next process of a run, unless it has one or is being ended."""
        instance, run_id = self._instance, context.dagster_run.run_id
        with self.states.hold(run_id) as lock:
            run, state = instance.get_run_by_id(run_id), self.states.read(run_id)
            # Somebody ends the run, or was quicker: Dagster would take an error for the run's.
            if lock is None or run is None or state is None or run.status is not dg.DagsterRunStatus.STARTED:
                instance.report_engine_event("Not resumed: it has a process, or is being ended", context.dagster_run)
                return
            crashes = 0 if state.awaited is not None else state.crashes + 1
            origin = _origin_of(run, context.job_code_origin)
            arguments = ResumeRunArgs(job_origin=origin, run_id=run_id, instance_ref=instance.get_ref())
            command = [origin.executable_path, "-m", "dagster", "api", "resume_run", serialize_value(arguments)]
            try:
                self.states.write(state.model_copy(update={"awaited": None, "crashes": crashes}))
                instance.add_run_tags(run_id, {SUSPENDED_TAG: AT_WORK})
                # Of a process that was killed.
                instance.event_log_storage.free_concurrency_slots_for_run(run_id)
                self._start(run_id, command=command, lock=lock)
            # No memory, no disk, a busy database: trouble of this host, which Dagster would take for the run's.
            except Exception:  # noqa: BLE001 - logged, and tried again at the next look
                _LOG.exception("run %s could not be resumed", run_id)
                self.states.write(state)

    def check_run_worker_health(self, run: dg.DagsterRun) -> CheckRunHealthResult:
        """Whether a run is to be left alone (RUNNING), or resumed (NOT_FOUND)."""
        self._reap()
        self._sweep()
        # The lock first: a process writes its state before it lets go.
        if self.states.is_held(run.run_id):
            return CheckRunHealthResult(WorkerStatus.RUNNING, "its process is at work")
        state = self.states.read(run.run_id)
        if state is None:
            return CheckRunHealthResult(WorkerStatus.RUNNING, "it was not started by this launcher")
        if state.awaited is None:
            return self._check_crashed(run, state=state)
        standing, words = self._open()[1].standing(state)
        self._log_contact(run, mute=words if standing is AwaitedState.MUTE else "")
        job = f"job {state.awaited.job}"
        if standing is not AwaitedState.ENDED:
            return CheckRunHealthResult(WorkerStatus.RUNNING, f"suspended, {job}: {words}")
        if not self._has_room():
            return CheckRunHealthResult(WorkerStatus.RUNNING, f"suspended, {job} {words}, waits for its turn to resume")
        return CheckRunHealthResult(WorkerStatus.NOT_FOUND, f"{job} {words}")

    def get_run_worker_debug_info(self, run: dg.DagsterRun, include_container_logs: bool | None = True) -> str | None:
        """Last lines that the processes of a run printed."""
        try:
            text = self.states.log(run.run_id).read_text("utf-8", "backslashreplace")
        except FileNotFoundError:
            return None
        return f"Last lines of its process:\n{text[-_LOG_TAIL:]}" if include_container_logs else None

    def terminate(self, run_id: str) -> bool:
        """End a run and its jobs; False when there is nothing to end, or the run was not started by this launcher."""
        instance = self._instance
        run = instance.get_run_by_id(run_id)
        if run is None or run.is_finished:
            return False
        instance.report_run_canceling(run)
        if not self.cares_for(run_id):
            instance.report_engine_event("Not started by the suspending launcher: end its own process", run)
            return False
        deadline = time.monotonic() + _FAREWELL_S
        while time.monotonic() < deadline:
            with self.states.hold(run_id) as lock:
                if lock is not None:
                    self._end_without_process(run_id)
                    return True
            if not self.states.interrupt(run_id):
                time.sleep(0.05)  # it is only just becoming a process
                continue
            self.states.wait_until_free(run_id, timeout_s=max(0.0, deadline - time.monotonic()))
        return True

    def _end_without_process(self, run_id: str) -> None:
        """Cancel the jobs that a run has left, then report it cancelled unless it did so; its lock is held."""
        instance, state = self._instance, self.states.read(run_id)
        run = instance.get_run_by_id(run_id)
        if run is None or state is None:
            return
        jobs, trouble = _cancel_jobs(state)
        self.states.write(state.model_copy(update={"awaited": None}))
        instance.add_run_tags(run_id, {SUSPENDED_TAG: AT_WORK})
        instance.event_log_storage.free_concurrency_slots_for_run(run_id)
        if trouble:
            instance.report_engine_event(f"A job may still be there: {trouble}; `morphseq jobs` shows it", run)
        if not run.is_finished:
            more = f"; cancelled with it: job {', '.join(jobs)}" if jobs else ""
            instance.report_run_canceled(run, message=f"Cancelled without a process of its own{more}")

    def _check_crashed(self, run: dg.DagsterRun, *, state: WorkerState) -> CheckRunHealthResult:
        if state.crashes < self._max_crashes:
            if not self._has_room():
                return CheckRunHealthResult(WorkerStatus.RUNNING, "its process is gone, waits for its turn to resume")
            return CheckRunHealthResult(WorkerStatus.NOT_FOUND, "its process is gone")
        words = f"Its process ended without a word {state.crashes + 1} times in a row"
        log = self.get_run_worker_debug_info(run)
        # Reported here, since Dagster counts resumes and crashes together; it then leaves the run alone.
        self._instance.report_run_failed(run, message=f"{words}. {log or ''}")
        return CheckRunHealthResult(WorkerStatus.FAILED, words)

    def _start(self, run_id: str, *, command: Sequence[str], lock: int) -> None:
        """Start a process that holds the lock and belongs to nobody: it outlives daemon, web server and terminal."""
        os.ftruncate(lock, 0)
        with self.states.log(run_id).open("ab") as log:
            child = subprocess.Popen(
                [*_START, f"/proc/self/fd/{lock}", *command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=(lock,),
                start_new_session=True,
                env={**os.environ, SUSPENSION_VARIABLE: str(self.states.path_of(run_id))},
            )
        self._children.append(child)
        self._counted = (self._counted[0], self._counted[1] + 1)

    def _has_room(self) -> bool:
        at, count = self._counted
        if time.monotonic() - at > _COUNT_S:
            count = self.states.at_work()
            self._counted = (time.monotonic(), count)
        return count < self._max_workers

    def _log_contact(self, run: dg.DagsterRun, *, mute: str) -> None:
        """Log in the run that contact is lost, and that it is back."""
        if mute and run.run_id not in self._unanswered:
            self._unanswered.add(run.run_id)
            self._instance.report_engine_event(f"No contact with the cluster, waiting: {mute}", run)
        elif not mute and run.run_id in self._unanswered:
            self._unanswered.discard(run.run_id)
            self._instance.report_engine_event("The cluster answers again", run)

    def _reap(self) -> None:
        """Take state of the ends of own children, or their names would stay in the list of processes."""
        self._children = [child for child in self._children if child.poll() is None]

    def _sweep(self) -> None:
        """Remove, now and then, what is there of runs that were deleted or have long ended."""
        if time.monotonic() - self._swept < _SWEEP_S:
            return
        self._swept = time.monotonic()
        for path in self.states.folder.glob("*.json"):
            with contextlib.suppress(FileNotFoundError), self.states.hold(path.stem) as lock:
                run, state = self._instance.get_run_by_id(path.stem), self.states.read(path.stem)
                if lock is None or state is None or (run is not None and not run.is_finished):
                    continue
                if run is None or time.time() - path.stat().st_mtime > _KEPT_S:
                    self.states.forget(path.stem)
                elif state.awaited is not None:  # ended without `terminate`; its job is an orphan
                    self.states.write(state.model_copy(update={"awaited": None}))

    def _open(self) -> tuple[WorkerStates, SuspendedRunMonitor]:
        with self._opening:
            if self._opened is None:
                states = WorkerStates(Path(self._instance.root_directory))
                self._opened = (states, SuspendedRunMonitor(states))
            return self._opened


def _origin_of(run: dg.DagsterRun, origin: JobPythonOrigin | None) -> JobPythonOrigin:
    if origin is None:
        raise PermanentError(
            expected="a run with the place of its code",
            found=f"run {run.run_id} of job {run.job_name} without it",
            where="run launcher",
            remedy="launch it from the web page, a sensor or `dagster job launch`",
        )
    return origin


def _cancel_jobs(state: WorkerState) -> tuple[list[str], str]:
    """Cancel the job that a run without a process waits for, and any that it submitted; why they may still be there."""
    if state.site is None:
        return [], ""
    client = connect(state.site.slurm, data_root=state.site.data_root)[0]
    found: dict[Path, Attempt] = {}
    if state.awaited is not None:
        attempt = attempt_of(client, awaited=state.awaited)
        found[attempt.folder] = attempt
    for _, _, attempt in client.root.open_attempts():
        if attempt.belongs_to(state.run_id):
            found[attempt.folder] = attempt
    attempts = [attempt for attempt in found.values() if not attempt.is_closed]
    jobs = [attempt.job or "of unknown number" for attempt in attempts]
    if not attempts:
        return [], ""
    try:
        client.cancel(attempts)
        client.await_cancelled(attempts)
    except UnreachableError as error:
        return jobs, error.found
    return jobs, ""
