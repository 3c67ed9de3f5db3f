"""Writes and renames that survive a crash: the reader finds the old or the new, never a half.

Files are written under temporary names, flushed, and renamed into place; folders are exchanged. What is published with
these, and in which order, is decided in `commit.py`.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import re
import secrets
import shutil
import socket
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from morphseq_dagster.engine.layout import TEMPORARY_SUFFIX

_NAME = re.compile(r"\.(?P<stem>.+)\.(?P<host>[^.]+)\.(?P<pid>\d+)\.(?P<token>[0-9a-f]{12})\.tmp\Z")
_MESSAGE = re.compile(
    r"(?P<stem>.+)\.(?P<host>[^.]+)\.(?P<pid>\d+)\.(?P<token>[0-9a-f]{12})\.(?:request|outcome)\.json\Z"
)
_RENAME_EXCHANGE = 2
_AT_FDCWD = -100
# glibc passes renameat2 on to the kernel; file systems without an exchange answer with one of these.
_NO_EXCHANGE = (errno.EINVAL, errno.ENOSYS, errno.ENOTTY, errno.EOPNOTSUPP)


@dataclass(frozen=True)
class TemporaryName:
    """What a temporary's name shows of its writer."""

    stem: str
    host: str
    pid: int


@cache
def host_name() -> str:
    """Name of this host as temporaries and locks carry it (dots would break the name's grammar)."""
    return re.sub(r"[^0-9A-Za-z-]", "-", socket.gethostname()) or "unknown"


def temporary_beside(target: Path) -> Path:
    """Make a name in the target's folder that names host and process and ends in `.tmp`."""
    return target.with_name(f".{target.name}.{host_name()}.{os.getpid()}.{secrets.token_hex(6)}{TEMPORARY_SUFFIX}")


def parse_temporary(name: str) -> TemporaryName | None:
    """Read a name made by `temporary_beside`; None for any other name."""
    match = _NAME.fullmatch(name)
    return None if match is None else TemporaryName(match["stem"], match["host"], int(match["pid"]))


def message_stem(stem: str) -> str:
    """Make the stem of a file that one process writes for another: it names the writer as a temporary does."""
    return f"{stem}.{host_name()}.{os.getpid()}.{secrets.token_hex(6)}"


def parse_message(name: str) -> TemporaryName | None:
    """Read the name of a request or outcome made with `message_stem`; None for any other name."""
    match = _MESSAGE.fullmatch(name)
    return None if match is None else TemporaryName(match["stem"], match["host"], int(match["pid"]))


def is_temporary(path: Path) -> bool:
    """Whether readers must ignore a path."""
    return path.name.endswith(TEMPORARY_SUFFIX)


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries, so that a rename in it survives a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(folder: Path) -> None:
    """Make a folder and its parents, each flushed into its parent."""
    missing = []
    while not folder.is_dir():
        missing.append(folder)
        folder = folder.parent
    for path in reversed(missing):
        path.mkdir(exist_ok=True)
        sync_folder(path.parent)


def write_file(path: Path, data: bytes, *, flush: bool = True) -> None:
    """Write bytes to a path that no reader looks at yet, and flush them to the disk unless told otherwise."""
    with path.open("xb") as handle:
        handle.write(data)
        handle.flush()
        if flush:
            os.fsync(handle.fileno())


def stage_file(target: Path, data: bytes) -> Path:
    """Write bytes under a temporary name beside their target; the half-written file of a failure is removed."""
    make_folder(target.parent)
    temporary = temporary_beside(target)
    try:
        write_file(temporary, data)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return temporary


def replace_file(target: Path, *, temporary: Path) -> None:
    """Put a flushed temporary file in its target's place and flush the folder."""
    temporary.replace(target)
    sync_folder(target.parent)


def write_durably(target: Path, data: bytes) -> None:
    """Replace a file's content in one step that a crash cannot split; its folder is made if need be."""
    make_folder(target.parent)
    write_whole(target, data)


def write_whole(target: Path, data: bytes, *, flush: bool = True, sync_entry: bool = True) -> None:
    """Replace a file's content in one step, in a folder that is there.

    Without `flush` the file survives the death of every process, but not that of the machine. Without `sync_entry` its
    name survives that only once the folder is flushed: for files written before another one of the same folder.
    """
    temporary = temporary_beside(target)
    try:
        write_file(temporary, data, flush=flush)
        temporary.replace(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if flush and sync_entry:
        sync_folder(target.parent)


def sync_tree(folder: Path) -> None:
    """Flush every file and folder of a staged folder before it is published."""
    for parent, _, names in os.walk(folder):
        for name in names:
            descriptor = os.open(Path(parent) / name, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        sync_folder(Path(parent))


def replace_folder(target: Path, *, temporary: Path) -> None:
    """Put a flushed folder in its target's place; the old folder ends under the temporary's name and is removed.

    Uses the kernel's atomic exchange. Where the file system has none (some network disks) the old folder is moved aside
    first: a crash between the two renames is mended by rolling the journal forward.
    """
    if not target.exists():
        temporary.rename(target)
        sync_folder(target.parent)
        return
    if not _exchange(temporary, target):
        aside = temporary_beside(target)
        target.rename(aside)
        temporary.rename(target)
        sync_folder(target.parent)
        remove_folder(aside)
        return
    sync_folder(target.parent)
    remove_folder(temporary)


def remove_folder(folder: Path) -> None:
    """Remove a folder that nobody reads any more; absence is fine, so is another process at the same work."""
    while folder.exists():
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(folder)


def link_or_copy(source: Path, target: Path) -> None:
    """Give a published file a second name without copying its bytes; copy where links are not possible.

    Published files are replaced, never rewritten in place, hence a shared inode is safe.
    """
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP):
            raise
        shutil.copyfile(source, target)


def _exchange(first: Path, second: Path) -> bool:
    """Swap two folders atomically; False where the file system cannot."""
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "renameat2"):
        return False
    answer = libc.renameat2(
        _AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second), ctypes.c_uint(_RENAME_EXCHANGE)
    )
    if answer == 0:
        return True
    code = ctypes.get_errno()
    if code in _NO_EXCHANGE:
        return False
    raise OSError(code, os.strerror(code), str(second))
