"""Step locks: at most one process works on a step of an experiment, by a file that names who holds it.

A lock is broken only on proof that its holder is dead: its process is gone on this host. A lock of another host is
waited for, with one exception.

A lock may name the folder of a cluster job's attempt. From then on its holder computes and publishes nothing by
itself, it waits for the job, and shows signs of life by touching the lock. When none has come for two minutes, by the
clock of the disk that both hosts see, whoever asks for it (`over_silent`) may take the step over. The holder may be
alive - suspended, cut off from the disk - which is why this is right for locks with an attempt alone:

- Both then wait for one job: submitting, giving up and trying again are locked by the attempts' folders
  (`cluster/client.py`), so there is one execution, and either of them may close or cancel it. The holder that wakes up
  verifies what was published; its release looks at the lock's token and leaves a newer one.
- Who takes over on one machine is refused while an attempt is open (`cluster/open_jobs.py`).
- Who asks for something else cancels the old job first; the old holder then sees a cancelled job, as after scancel.
- An attempt is named once, by the holder itself and before its job is submitted, and never changed: a lock without it
  cannot be broken from another host, so no write meets a breaker. A holder killed on another host before it came to
  that keeps its lock; `morphseq doctor` names it.
- Two who take over at once: the lock is renamed away, which one of them alone can do, and looked at again under its
  new name. If the old holder released and a third took the step in that moment, the third's lock is put back.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from pydantic import BaseModel, ConfigDict, ValidationError

from morphseq_dagster.engine.storage.atomic_io import host_name, make_folder, stage_file, temporary_beside
from morphseq_dagster.errors import TransientError

SILENT_S: Final = 120.0
"""Seconds without a sign of life after which a lock with an attempt may be taken over; network disks show one late."""
_BEAT_S = 15.0
_POLL_SECONDS = 0.2
_BEATING: dict[Path, str] = {}
"""Claims of this process that show signs of life, with their tokens."""
_BEATER: list[threading.Thread] = []
_BEAT_LOCK = threading.Lock()


class StepLock(BaseModel):
    """Who works on a step: host, process (with its start, since numbers are used again), run and time.

    `attempt` is the folder, below the data root, of the first attempt of the cluster job that does the work; empty as
    long as the holder may compute by itself.
    """

    model_config = ConfigDict(frozen=True)

    host: str
    pid: int
    process_start: str
    run_id: str
    taken_at: str
    token: str
    attempt: str = ""

    def holder(self) -> str:
        """Name the holder for people."""
        job = f", waiting for the job of {self.attempt}" if self.attempt else ""
        return f"process {self.pid} on {self.host}, run {self.run_id}, since {self.taken_at}{job}"


def process_start(pid: int) -> str:
    """Start time of a process in clock ticks since boot, as text; empty when there is no such process."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""
    except OSError:
        return "unknown"
    fields = text.rpartition(")")[2].split()
    # A zombie's work is over although its number is still taken.
    return "" if fields[0] in ("Z", "X") else fields[19]


def process_is_gone(pid: int) -> bool:
    """Whether no process of this host has this number; also where there is no `/proc` to ask."""
    if not Path("/proc/self/stat").exists():
        return not _pid_exists(pid)
    return process_start(pid) == ""


def holder_is_dead(lock: StepLock) -> bool:
    """Whether it is proven that a lock's holder is gone; False also stands for `cannot tell`."""
    if lock.host != host_name():
        return False
    if process_is_gone(lock.pid):
        return True
    known = {process_start(lock.pid), lock.process_start} - {"", "unknown"}
    return len(known) == 2


def read_lock(path: Path) -> StepLock | None:
    """Read a lock; None when nobody holds it.

    Raises
    ------
    TransientError
        When the lock cannot be understood, so that nobody works beside an unknown holder.
    """
    try:
        return StepLock.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValidationError as error:
        raise TransientError(
            expected="a lock written by this project",
            found=str(error.errors()[0]["msg"]),
            where=str(path),
            remedy="make sure nobody works on this step, then remove the file",
        ) from error


@contextmanager
def hold_lock(
    path: Path,
    *,
    run_id: str,
    on_wait: Callable[[StepLock], None] | None = None,
    patience_s: float | None = None,
    over_silent: bool = False,
) -> Iterator[StepLock]:
    """Hold a lock for the length of a `with` block, waiting for a live holder.

    Parameters
    ----------
    path
        File of the lock.
    run_id
        Run on whose behalf it is taken.
    on_wait
        Called once per holder met.
    patience_s
        Longest wait in seconds; None waits for ever.
    over_silent
        Take over from a holder that waits for a cluster job and has shown no sign of life for two minutes. The job may
        be at work: the caller keeps off everything that it may be publishing.

    Raises
    ------
    TransientError
        When the holder outlasts the patience.
    """
    lock = StepLock(
        host=host_name(),
        pid=os.getpid(),
        process_start=process_start(os.getpid()),
        run_id=run_id,
        taken_at=datetime.now(UTC).isoformat(timespec="seconds"),
        token=secrets.token_hex(8),
    )
    _take(path, lock=lock, on_wait=on_wait, patience_s=patience_s, over_silent=over_silent)
    try:
        yield lock
    finally:
        _release(path, token=lock.token)


def break_dead_lock(path: Path) -> bool:
    """Remove a lock whose holder is proven dead; return whether one was removed."""
    with _breaking(path.parent):
        lock = read_lock(path)
        if lock is None or not holder_is_dead(lock):
            return False
        path.unlink()
        return True


def name_attempt(path: Path, *, attempt: str) -> bool:
    """Name in a lock of this process the attempt that it waits for, and begin to show signs of life; once per lock.

    Return whether the lock names one now; it does not where this process holds none.
    """
    lock = read_lock(path)
    if lock is None or (lock.host, lock.pid) != (host_name(), os.getpid()):
        return False
    if not lock.attempt:
        temporary = stage_file(path, lock.model_copy(update={"attempt": attempt}).model_dump_json().encode())
        temporary.replace(path)
    _show_life(path, token=lock.token)
    return True


def holder_is_silent(path: Path, *, lock: StepLock, clock: Path) -> bool:
    """Whether a lock names an attempt and its holder has shown no sign of life for long.

    `clock` is a file of the caller on the same disk, which is touched to learn the disk's own time.
    """
    if not lock.attempt:
        return False
    os.utime(clock)
    try:
        with path.open("rb") as handle:  # opening a file is what makes a network disk ask for its present times
            return clock.stat().st_mtime - os.fstat(handle.fileno()).st_mtime > SILENT_S
    except FileNotFoundError:
        return False


def _take(
    path: Path,
    *,
    lock: StepLock,
    on_wait: Callable[[StepLock], None] | None,
    patience_s: float | None,
    over_silent: bool,
) -> None:
    deadline = None if patience_s is None else time.monotonic() + patience_s
    temporary = stage_file(path, lock.model_dump_json().encode())
    try:
        _wait_and_link(path, temporary=temporary, on_wait=on_wait, deadline=deadline, over_silent=over_silent)
        temporary.unlink(missing_ok=True)
    except BaseException:
        # A lock that is held by nobody's knowledge would block the step for as long as this process lives.
        _release(path, token=lock.token)
        temporary.unlink(missing_ok=True)
        raise


def _wait_and_link(
    path: Path,
    *,
    temporary: Path,
    on_wait: Callable[[StepLock], None] | None,
    deadline: float | None,
    over_silent: bool,
) -> None:
    met = ""
    while True:
        try:
            # A hard link appears whole and fails if the name is taken, on network disks too.
            os.link(temporary, path)
            return
        except FileExistsError:
            pass  # somebody holds it: look who
        other = read_lock(path)
        if other is None or break_dead_lock(path):
            continue
        if over_silent and _break_silent(path, lock=other, clock=temporary):
            continue
        if other.token != met:
            met = other.token
            if on_wait is not None:
                on_wait(other)
        if deadline is not None and time.monotonic() >= deadline:
            raise TransientError(
                expected="the step to be free",
                found=f"it is held by {other.holder()}",
                where=str(path),
                remedy="wait for the holder, or end it; a dead holder's lock is removed by itself",
            )
        time.sleep(_POLL_SECONDS)


def _break_silent(path: Path, *, lock: StepLock, clock: Path) -> bool:
    """Remove the lock of a silent holder; return whether the step may be free now."""
    with _breaking(path.parent):
        if not holder_is_silent(path, lock=lock, clock=clock):
            return False
        aside = temporary_beside(path)
        try:
            path.rename(aside)
        except FileNotFoundError:
            return True
        try:
            taken = read_lock(aside)
            if taken is not None and taken.token != lock.token:
                with contextlib.suppress(FileExistsError):
                    os.link(aside, path)
                return False
        finally:
            aside.unlink(missing_ok=True)
        return True


def _show_life(path: Path, *, token: str) -> None:
    """Touch a lock now and then from here on, until it is released."""
    with _BEAT_LOCK:
        _BEATING[path] = token
        if not any(thread.is_alive() for thread in _BEATER):
            _BEATER[:] = [threading.Thread(target=_beat, name="step locks", daemon=True)]
            _BEATER[0].start()


def _beat() -> None:
    """Touch every lock of this process that names an attempt, as long as there is one."""
    while True:
        time.sleep(_BEAT_S)
        with _BEAT_LOCK:
            beating = dict(_BEATING)
            if not beating:
                _BEATER.clear()
                return
        for path, token in beating.items():
            with contextlib.suppress(OSError, TransientError):
                held = read_lock(path)
                if held is not None and held.token == token:
                    os.utime(path)
                else:
                    _BEATING.pop(path, None)


def _release(path: Path, *, token: str) -> None:
    with _BEAT_LOCK:
        if _BEATING.get(path) == token:
            del _BEATING[path]
    held = read_lock(path)
    if held is not None and held.token == token:
        path.unlink()


@contextmanager
def _breaking(folder: Path) -> Iterator[None]:
    """Let one process of this host at a time break locks; the kernel frees the lock when it dies."""
    make_folder(folder)
    descriptor = os.open(folder / ".breaking.lock", os.O_RDWR | os.O_CREAT, 0o664)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _pid_exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
