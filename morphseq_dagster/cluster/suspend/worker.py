"""Worker: the process of a run under the suspending launcher (`launcher.py`), seen from inside.

It may leave while a job works for it, and this is how it leaves.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NoReturn

import dagster as dg

from morphseq_dagster.cluster.connection import close_connections
from morphseq_dagster.cluster.executor import SuspendedRun
from morphseq_dagster.cluster.orphans import note_suspension
from morphseq_dagster.cluster.suspend.state import AwaitedJob, Site, WorkerState, WorkerStates
from morphseq_dagster.engine.layout import Layout
from morphseq_dagster.settings.slurm import SUSPENSION_VARIABLE, SlurmSettings

SUSPENDED_TAG: Final = "morphseq/parked"
"""Tag of a run: the job that it waits for without a process, and where; `no` when it has a process again."""
AT_WORK: Final = "no"


def may_suspend(run_id: str) -> bool:
    """Whether this process was started for this run by the suspending launcher."""
    return SUSPENSION_VARIABLE in os.environ and _path_of_state().stem == run_id


def note_site(run_id: str, *, data_root: Path, slurm: SlurmSettings) -> None:
    """Record where the jobs of this run will be, so that they can be cancelled when this process is gone."""
    states, state = _read(run_id)
    site = Site(data_root=data_root, slurm=slurm)
    if state.site != site:
        states.write(state.model_copy(update={"site": site}))


def leave(left: SuspendedRun, *, instance: dg.DagsterInstance, run: dg.DagsterRun, step_key: str) -> NoReturn:
    """End this process; the launcher starts another one for the run when the job has ended.

    Nothing is raised: Dagster would take it for a failure of the step. Locks were released on the way; slots of pools,
    the login and child processes are released here.
    """
    # A cancel that comes now finds a suspended run a moment later.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    attempt, request = left.handle.attempt, left.request
    folder = Layout(Path(request.data_root)).relative(attempt.folder)
    states, state = _read(run.run_id)
    job = AwaitedJob(
        step=request.step,
        experiment=request.experiment,
        key=attempt.folder.parent.name,
        number=attempt.number,
        job=left.handle.job,
        folder=folder,
        since=time.time(),
    )
    with _never_stopping():
        note_suspension(attempt)
    states.write(state.model_copy(update={"awaited": job, "crashes": 0}))
    # From here on the run is suspended, whatever happens to this process.
    with _never_stopping():
        instance.add_run_tags(run.run_id, {SUSPENDED_TAG: f"job {job.job} in {folder}"})
        instance.report_engine_event(
            f"Suspended: job {job.job} works on {job.step}. This process (pid: {os.getpid()}) ends; the run resumes "
            f"when the job has ended. Its folder: {attempt.folder}",
            run,
            step_key=step_key,
        )
        instance.event_log_storage.free_concurrency_slots_for_run(run.run_id)
    with _never_stopping():
        close_connections()
    with _never_stopping():
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
    _end_children()
    os._exit(0)


@contextlib.contextmanager
def _never_stopping() -> Iterator[None]:
    """Print what fails instead of raising it: the run is suspended, and an error would be reported as the step's."""
    try:
        yield
    except Exception:  # noqa: BLE001 - printed
        traceback.print_exc()


def _path_of_state() -> Path:
    return Path(os.environ.get(SUSPENSION_VARIABLE, ""))


def _read(run_id: str) -> tuple[WorkerStates, WorkerState]:
    states = WorkerStates(_path_of_state().parent.parent)
    return states, states.read(run_id) or WorkerState(run_id=run_id)


def _end_children() -> None:
    """End the helpers that Dagster keeps for copying output; they would notice by themselves a second later."""
    for path in Path("/proc/self/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for text in path.read_text().split():
                os.kill(int(text), signal.SIGTERM)
