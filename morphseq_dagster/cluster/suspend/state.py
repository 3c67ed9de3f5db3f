"""Worker states: per run whether it has a process, which job it waits for, and what its processes printed.

The launcher (`launcher.py`) and the processes of runs (`worker.py`) share the folder `{DAGSTER_HOME}/workers`. Each run
has a lock there that its process holds as long as it lives: the kernel releases it however the process ends, and no
process number is taken for proof. Whoever holds the lock may write the state. The folder needs a disk of this host.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from morphseq_dagster.engine.storage.atomic_io import make_folder, write_durably
from morphseq_dagster.settings.slurm import SUSPENSION_VARIABLE, SlurmSettings

_LOG = logging.getLogger(__name__)
_FOLDER: Final = "workers"
_BUSY_S: Final = 1.0
"""Time after which a lock that is not free belongs to a process: a look at it takes it for a moment."""
_CLOSED: Final = ConfigDict(extra="forbid", frozen=True)


class Site(BaseModel):
    """Where the jobs of a run are."""

    model_config = _CLOSED

    data_root: Path
    slurm: SlurmSettings


class AwaitedJob(BaseModel):
    """The job that a suspended run waits for, and its attempt's place below the data root."""

    model_config = _CLOSED

    step: str
    experiment: str
    key: str
    number: int
    job: str
    folder: str
    since: float


class WorkerState(BaseModel):
    """What is known of a run.

    Parameters
    ----------
    run_id
        The run.
    site
        Where its jobs are; None until it has come to a step at a cluster.
    awaited
        The job that it waits for without a process (`parked` in the file); None while a process works on it, or should.
    crashes
        Processes that died since the run was last suspended.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    run_id: str
    site: Site | None = None
    awaited: AwaitedJob | None = Field(default=None, alias="parked")
    crashes: int = 0


class WorkerStates:
    """States and locks of all runs of a Dagster home.

    Parameters
    ----------
    home
        Folder of the Dagster instance.
    """

    def __init__(self, home: Path) -> None:
        self.folder = home / _FOLDER

    def path_of(self, run_id: str) -> Path:
        """Path of a run's state."""
        return self.folder / f"{run_id}.json"

    def log(self, run_id: str) -> Path:
        """Path of what a run's processes print."""
        return self.folder / f"{run_id}.log"

    def read(self, run_id: str) -> WorkerState | None:
        """Read the state of a run; None when no process was ever started for it from here.

        One that cannot be read, of another version perhaps, is taken as empty: the run's next process finds its job.
        """
        try:
            return WorkerState.model_validate_json(self.path_of(run_id).read_bytes())
        except FileNotFoundError:
            return None
        except ValidationError as error:
            _LOG.warning("%s: %s", self.path_of(run_id), error)
            return WorkerState(run_id=run_id)

    def write(self, state: WorkerState) -> None:
        """Replace the state of a run; the caller holds its lock."""
        write_durably(self.path_of(state.run_id), state.model_dump_json(by_alias=True).encode())

    def suspended(self) -> list[WorkerState]:
        """States of all suspended runs."""
        states = [self.read(path.stem) for path in sorted(self.folder.glob("*.json"))]
        return [state for state in states if state is not None and state.awaited is not None]

    def at_work(self) -> int:
        """Count the runs that have a process."""
        return sum(self.is_held(path.stem) for path in self.folder.glob("*.lock"))

    def is_held(self, run_id: str) -> bool:
        """Whether a run has a process (or somebody is about to give it one, or to end it)."""
        try:
            descriptor = os.open(self._lock(run_id), os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(descriptor)
        return False

    @contextmanager
    def hold(self, run_id: str) -> Iterator[int | None]:
        """Hold a run's lock; its descriptor, which a child process may inherit and keep, or None when it is held."""
        make_folder(self.folder)
        descriptor = os.open(self._lock(run_id), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o664)
        try:
            yield descriptor if _take(descriptor) else None
        finally:
            os.close(descriptor)

    def wait_until_free(self, run_id: str, *, timeout_s: float) -> bool:
        """Wait for the end of a run's process; whether it came."""
        deadline = time.monotonic() + timeout_s
        while self.is_held(run_id):
            if time.monotonic() > deadline:
                return False
            time.sleep(0.05)
        return True

    def interrupt(self, run_id: str) -> bool:
        """Send TERM to the process that holds a run's lock; False when none is found."""
        text = self._lock(run_id).read_text().strip()
        if not text.isdigit() or not self._is_worker(int(text), run_id=run_id):
            return False
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(text), signal.SIGTERM)
        return True

    def forget(self, run_id: str) -> None:
        """Remove what is there of a run that has ended."""
        for path in (self.path_of(run_id), self.log(run_id), self._lock(run_id)):
            path.unlink(missing_ok=True)

    def _lock(self, run_id: str) -> Path:
        return self.folder / f"{run_id}.lock"

    def _is_worker(self, pid: int, *, run_id: str) -> bool:
        """Whether a process is a worker of this run: its number is in the lock, but numbers are used again."""
        try:
            variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        except OSError:
            return False
        return f"{SUSPENSION_VARIABLE}={self.path_of(run_id)}".encode() in variables


def _take(descriptor: int) -> bool:
    deadline = time.monotonic() + _BUSY_S
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.02)
        else:
            return True
