"""Notes: what is known of the processes of runs - alive or not, and where a suspended run's job is.

Holds the folder that launcher and workers share, `{DAGSTER_HOME}/workers`: per run a lock that its process holds as
long as it lives, a note and a log. The kernel gives the lock back however the process ends, and no number of a process
is ever taken for proof. Whoever holds the lock may write the note. Needs a disk of this host, as Dagster's home does.
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

from pydantic import BaseModel, ConfigDict, ValidationError

from morphseq_dagster.engine.storage.atomic_io import make_folder, write_durably
from morphseq_dagster.settings.slurm import SUSPENSION_VARIABLE, SlurmSettings

_LOG = logging.getLogger(__name__)
_FOLDER: Final = "workers"
_BUSY_S: Final = 1.0
"""Time after which a lock that cannot be had is a process's: looking whether it is free takes it for a moment."""
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


class RunNote(BaseModel):
    """What is known of a run.

    Parameters
    ----------
    run_id
        The run.
    site
        Where its jobs are; None until it has come to a step at a cluster.
    parked
        What it waits for; None while a process works on it, or should.
    crashes
        Processes that ended without a word since the run last suspended.
    """

    model_config = _CLOSED

    run_id: str
    site: Site | None = None
    parked: AwaitedJob | None = None
    crashes: int = 0


class RunNotes:
    """Notes and locks of all runs of a Dagster home.

    Parameters
    ----------
    home
        Folder of the Dagster instance.
    """

    def __init__(self, home: Path) -> None:
        self.folder = home / _FOLDER

    def note(self, run_id: str) -> Path:
        """Path of a run's note."""
        return self.folder / f"{run_id}.json"

    def log(self, run_id: str) -> Path:
        """Path of what a run's processes print."""
        return self.folder / f"{run_id}.log"

    def read(self, run_id: str) -> RunNote | None:
        """Read the note of a run; None when no process was ever started for it from here.

        A note that cannot be read, of another version perhaps, says that much: the run's next process finds its job.
        """
        try:
            return RunNote.model_validate_json(self.note(run_id).read_bytes())
        except FileNotFoundError:
            return None
        except ValidationError as error:
            _LOG.warning("%s: %s", self.note(run_id), error)
            return RunNote(run_id=run_id)

    def write(self, note: RunNote) -> None:
        """Replace the note of a run; the caller holds its lock."""
        write_durably(self.note(note.run_id), note.model_dump_json().encode())

    def parked(self) -> list[RunNote]:
        """Notes of all suspended runs."""
        notes = [self.read(path.stem) for path in sorted(self.folder.glob("*.json"))]
        return [note for note in notes if note is not None and note.parked is not None]

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
        """Hold a run's lock; gives its descriptor, which a child process may inherit and keep, or None: it is held."""
        make_folder(self.folder)
        descriptor = os.open(self._lock(run_id), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o664)
        try:
            yield descriptor if _take(descriptor) else None
        finally:
            os.close(descriptor)

    def wait_until_free(self, run_id: str, *, timeout_s: float) -> bool:
        """Wait for the end of a run's process; tell whether it came."""
        deadline = time.monotonic() + timeout_s
        while self.is_held(run_id):
            if time.monotonic() > deadline:
                return False
            time.sleep(0.05)
        return True

    def interrupt(self, run_id: str) -> bool:
        """Tell the process that holds a run's lock to stop; False when none is found."""
        text = self._lock(run_id).read_text().strip()
        if not text.isdigit() or not self._is_worker(int(text), run_id=run_id):
            return False
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(text), signal.SIGTERM)
        return True

    def forget(self, run_id: str) -> None:
        """Remove what is there of a run that has ended."""
        for path in (self.note(run_id), self.log(run_id), self._lock(run_id)):
            path.unlink(missing_ok=True)

    def _lock(self, run_id: str) -> Path:
        return self.folder / f"{run_id}.lock"

    def _is_worker(self, pid: int, *, run_id: str) -> bool:
        """Whether a number is a worker's of this run: the lock tells it, but numbers are used again."""
        try:
            variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        except OSError:
            return False
        return f"{SUSPENSION_VARIABLE}={self.note(run_id)}".encode() in variables


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
