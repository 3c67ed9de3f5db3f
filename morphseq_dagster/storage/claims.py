"""Claims: at most one worker on a step of an experiment, by a file that tells who holds it.

Holds taking, waiting for, releasing and breaking a claim. A claim is broken only on proof that its holder is dead: its
process is gone on this host. A claim of another host is waited for.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from morphseq_dagster.errors import TransientError
from morphseq_dagster.storage.durable import host_name, make_folder, stage_file

_POLL_SECONDS = 0.2


class Claim(BaseModel):
    """Who works on a step: host, process (with its start, since numbers are used again), run and time."""

    model_config = ConfigDict(frozen=True)

    host: str
    pid: int
    process_start: str
    run_id: str
    taken_at: str
    token: str

    def holder(self) -> str:
        """Name the holder for people."""
        return f"process {self.pid} on {self.host}, run {self.run_id}, since {self.taken_at}"


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


def holder_is_dead(claim: Claim) -> bool:
    """Whether it is proven that a claim's holder is gone; False also stands for `cannot tell`."""
    if claim.host != host_name():
        return False
    if process_is_gone(claim.pid):
        return True
    known = {process_start(claim.pid), claim.process_start} - {"", "unknown"}
    return len(known) == 2


def read_claim(path: Path) -> Claim | None:
    """Read a claim; None when nobody holds it.

    Raises
    ------
    TransientError
        When the claim cannot be understood, so that nobody works beside an unknown holder.
    """
    try:
        return Claim.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValidationError as error:
        raise TransientError(
            expected="a claim written by this project",
            found=str(error.errors()[0]["msg"]),
            where=str(path),
            remedy="make sure nobody works on this step, then remove the file",
        ) from error


@contextmanager
def hold_claim(
    path: Path,
    *,
    run_id: str,
    on_wait: Callable[[Claim], None] | None = None,
    patience_s: float | None = None,
) -> Iterator[Claim]:
    """Hold a claim for the length of a `with` block, waiting for a live holder.

    Parameters
    ----------
    path
        File of the claim.
    run_id
        Run on whose behalf it is taken.
    on_wait
        Called once per holder met.
    patience_s
        Longest wait in seconds; None waits for ever.

    Raises
    ------
    TransientError
        When the holder outlasts the patience.
    """
    claim = Claim(
        host=host_name(),
        pid=os.getpid(),
        process_start=process_start(os.getpid()),
        run_id=run_id,
        taken_at=datetime.now(UTC).isoformat(timespec="seconds"),
        token=secrets.token_hex(8),
    )
    _take(path, claim=claim, on_wait=on_wait, patience_s=patience_s)
    try:
        yield claim
    finally:
        _release(path, token=claim.token)


def break_dead_claim(path: Path) -> bool:
    """Remove a claim whose holder is proven dead; tell whether one was removed."""
    with _breaking(path.parent):
        claim = read_claim(path)
        if claim is None or not holder_is_dead(claim):
            return False
        path.unlink()
        return True


def _take(path: Path, *, claim: Claim, on_wait: Callable[[Claim], None] | None, patience_s: float | None) -> None:
    deadline = None if patience_s is None else time.monotonic() + patience_s
    temporary = stage_file(path, claim.model_dump_json().encode())
    try:
        _wait_and_link(path, temporary=temporary, on_wait=on_wait, deadline=deadline)
        temporary.unlink(missing_ok=True)
    except BaseException:
        # A claim that is held by nobody's knowledge would block the step for as long as this process lives.
        _release(path, token=claim.token)
        temporary.unlink(missing_ok=True)
        raise


def _wait_and_link(
    path: Path, *, temporary: Path, on_wait: Callable[[Claim], None] | None, deadline: float | None
) -> None:
    told = ""
    while True:
        try:
            # A hard link appears whole and fails if the name is taken, on network disks too.
            os.link(temporary, path)
            return
        except FileExistsError:
            pass  # somebody holds it: look who
        other = read_claim(path)
        if other is None or break_dead_claim(path):
            continue
        if other.token != told:
            told = other.token
            if on_wait is not None:
                on_wait(other)
        if deadline is not None and time.monotonic() >= deadline:
            raise TransientError(
                expected="the step to be free",
                found=f"it is held by {other.holder()}",
                where=str(path),
                remedy="wait for the holder, or end it; a dead holder's claim is removed by itself",
            )
        time.sleep(_POLL_SECONDS)


def _release(path: Path, *, token: str) -> None:
    held = read_claim(path)
    if held is not None and held.token == token:
        path.unlink()


@contextmanager
def _breaking(folder: Path) -> Iterator[None]:
    """Let one process of this host at a time break claims; the kernel frees the lock when it dies."""
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
