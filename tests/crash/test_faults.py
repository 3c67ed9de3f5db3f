"""Faults of the disk while a new version replaces an old one: at single system calls, on full and read-only disks.

The kernel refuses (or the process dies at) the n-th call of a kind, by strace's fault injection. What was good
survives, the run ends with the error's name, and the next run heals everything.
"""

from __future__ import annotations

import ctypes
import os
import random
import resource
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import pytest

from tests.support.crashes import Child, CrashSite

RENAMES = "rename,renameat,renameat2"
LINKS = "link,linkat"
# (calls, error by name, its text)
FAULTS = {
    "fsync": ("fsync,fdatasync", "EIO", "Input/output error"),
    "rename": (RENAMES, "EIO", "Input/output error"),
    "write": ("write", "ENOSPC", "No space left on device"),
    "link": (LINKS, "EIO", "Input/output error"),
    "mkdir": ("mkdir,mkdirat", "ENOSPC", "No space left on device"),
    "unlink": ("unlink,unlinkat,rmdir", "EIO", "Input/output error"),
}
CHANGES = f"fsync,{RENAMES},{LINKS},write,mkdir,mkdirat,unlink,unlinkat,rmdir"
_PR_SET_PTRACER = 0x59616D61
_ANY = ctypes.c_ulong(-1)


def cannot(reason: str) -> NoReturn:
    """Skip with a reason; where nobody watches a skip is a failure."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"may not be skipped with CI=true: {reason}")
    pytest.skip(reason)


@dataclass
class Traced:
    """How a traced run ended."""

    code: int
    message: str
    log: str

    @property
    def hit(self) -> bool:
        """Whether a call was really refused, or the process killed at one."""
        return "(INJECTED)" in self.log or "killed by SIGKILL" in self.log

    @property
    def calls(self) -> int:
        """How many of the traced calls were made."""
        return sum("= " in line and "+++" not in line for line in self.log.splitlines())


Trace = Callable[..., Traced]


@pytest.fixture
def trace(site: CrashSite, fork: Callable[..., Child], tmp_path: Path) -> Trace:
    """Run the chain in a child under strace: which calls are watched, and strace's words for what befalls them."""
    if shutil.which("strace") is None:
        cannot("strace is not installed")

    def run(calls: str, *inject: str) -> Traced:
        go_read, go_write = os.pipe()

        def wait_for_strace() -> None:
            ctypes.CDLL(None).prctl(_PR_SET_PTRACER, _ANY)
            os.close(go_write)
            os.read(go_read, 1)

        child = fork(before=wait_for_strace)
        os.close(go_read)
        log = tmp_path / "strace.log"
        command = ["strace", "-f", "-o", str(log), "-e", f"trace={calls}", "-e", "signal=none"]
        for word in inject:
            command += ["-e", f"inject={word}"]
        with subprocess.Popen([*command, "-p", str(child.pid)], stderr=subprocess.PIPE, text=True) as strace:
            assert strace.stderr is not None
            words = strace.stderr.readline()
            if "attached" not in words:
                child.kill()
                child.wait()
                cannot(f"strace cannot attach to a child: {words.strip()}")
            os.write(go_write, b"!")
            os.close(go_write)
            code = child.wait()
            strace.wait(30)
        return Traced(code, child.message, log.read_text())

    return run


def sample(total: int, count: int, seed: int) -> list[int]:
    """The first, the last and some of the calls between."""
    chosen = {1, total, *random.Random(seed).sample(range(1, total + 1), min(count, total))}
    return sorted(chosen)


def refuse_calls(site: CrashSite, trace: Trace, *, kind: str, count: int | None, lasting: bool) -> None:
    calls, error, text = FAULTS[kind]
    site.prepare()
    total = trace(calls).calls
    assert total > 0, f"the run makes no {kind}"
    numbers = range(1, total + 1) if count is None else sample(total, count, seed=len(kind))
    target, hits = 1, 0
    for number in numbers:
        target = 1 - target
        site.choose(target)
        told = f"{kind} {number}{'+' * lasting} of {total} refused with {error}"
        ended = trace(calls, f"{calls}:error={error}:when={number}{'+' * lasting}")
        site.check_old_or_new(told)
        if ended.hit:
            hits += 1
            if kind == "mkdir" and ended.code == 0:
                site.check_healed(target, told)  # a folder was refused that was there already
                continue
            assert ended.code == 1, f"{told}: the run ended with {ended.code}"
            if not lasting or kind != "write":  # when nothing can be written, the exit code alone can tell
                assert text in ended.message, f"{told}: the run said {ended.message!r}"
        site.check_healed(target, told)
    assert hits > 0


@pytest.mark.parametrize("lasting", [False, True], ids=["once", "from then on"])
@pytest.mark.parametrize("kind", FAULTS)
def test_refused_call_loses_nothing_is_told_and_heals(site: CrashSite, trace: Trace, kind: str, lasting: bool) -> None:
    refuse_calls(site, trace, kind=kind, count=2, lasting=lasting)


@pytest.mark.slow
@pytest.mark.parametrize("lasting", [False, True], ids=["once", "from then on"])
@pytest.mark.parametrize("kind", FAULTS)
def test_every_refused_call_loses_nothing_is_told_and_heals(
    site: CrashSite, trace: Trace, kind: str, lasting: bool
) -> None:
    refuse_calls(site, trace, kind=kind, count=None, lasting=lasting)


def kill_at_calls(site: CrashSite, trace: Trace, *, count: int | None, exchange: bool) -> None:
    # `EINVAL` is how a file system says that it cannot exchange two folders.
    without = () if exchange else ("renameat2:error=EINVAL",)
    others = CHANGES if exchange else CHANGES.replace(",renameat2", "")
    site.prepare()
    first = trace(CHANGES, *without)
    assert first.code == 0, first.message
    numbers = range(1, first.calls + 1) if count is None else sample(first.calls, count, seed=11)
    target, hits = 1, 0
    for number in numbers:
        target = 1 - target
        site.choose(target)
        told = f"killed at call {number} of {first.calls}{'' if exchange else ', no exchange of folders'}"
        ended = trace(CHANGES, *without, f"{others}:signal=KILL:when={number}")
        if ended.code == -9:
            hits += 1
        else:
            assert ended.code == 0, f"{told}: {ended.message}"
        site.check_old_or_new(told, may_be_aside=not exchange)
        site.check_healed(target, told)
    assert hits > 0


@pytest.mark.parametrize("exchange", [True, False], ids=["exchange", "no exchange"])
def test_run_killed_at_a_chosen_call_heals(site: CrashSite, trace: Trace, exchange: bool) -> None:
    kill_at_calls(site, trace, count=6, exchange=exchange)


@pytest.mark.slow
@pytest.mark.parametrize("exchange", [True, False], ids=["exchange", "no exchange"])
def test_run_killed_at_every_call_heals(site: CrashSite, trace: Trace, exchange: bool) -> None:
    kill_at_calls(site, trace, count=None, exchange=exchange)


def test_disk_without_links_gets_copies(site: CrashSite, trace: Trace) -> None:
    site.prepare()
    # Claims need links; only those of pictures may be refused here, and those come after the first.
    ended = trace(LINKS, f"{LINKS}:error=EPERM:when=2..4")
    assert ended.hit
    assert ended.code == 0, ended.message
    site.check_healed(1, "links refused")


# disks


@contextmanager
def mounted(*arguments: str, at: Path) -> Iterator[bool]:
    """Mount something for the length of a `with` block; False where this is not permitted."""
    at.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(["mount", *arguments, str(at)], check=False, capture_output=True, text=True)
    try:
        yield done.returncode == 0
    finally:
        if done.returncode == 0:
            subprocess.run(["umount", "-l", str(at)], check=True)


def fill_up(path: Path, *, leave: int) -> None:
    """Write a file until the disk is full, then give back some bytes."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT)
    try:
        while True:
            os.write(descriptor, bytes(4096))
    except OSError:
        os.ftruncate(descriptor, max(0, os.fstat(descriptor).st_size - leave))
    finally:
        os.close(descriptor)


@pytest.mark.parametrize("free_pages", [0, 1, 2, 4, 8, 12, 16])
def test_full_disk_loses_nothing_is_told_and_heals(
    site: CrashSite, fork: Callable[..., Child], free_pages: int
) -> None:
    root = site.workspace.data_root
    with mounted("-t", "tmpfs", "-o", "size=2m", "tmpfs", at=root) as possible:
        if not possible:
            cannot("mounting a small disk is not permitted; the limit on file sizes is tested instead")
        site.prepare()
        ballast = root / "ballast"
        fill_up(ballast, leave=4096 * free_pages)
        told = f"{free_pages} free pages"
        child = fork()
        assert child.wait() == 1, told
        assert "No space left on device" in child.message
        assert "free space" in child.message
        site.check_old_or_new(told)
        ballast.unlink()
        site.check_healed(1, told)


@pytest.mark.parametrize("limit", [0, 1, 100, 1000])
def test_limit_on_file_sizes_loses_nothing_is_told_and_heals(
    site: CrashSite, fork: Callable[..., Child], limit: int
) -> None:
    site.prepare()
    child = fork(before=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)))
    assert child.wait() == 1
    assert child.message == "" or "File too large" in child.message or len(child.message) == limit
    site.check_old_or_new(f"limit {limit}")
    site.check_healed(1, f"limit {limit}")


@contextmanager
def read_only(root: Path) -> Iterator[str]:
    """Make a folder read-only: by permissions, or, since they do not bind root, by a mount; yield the remedy's word."""
    if os.geteuid() != 0:
        folders = [root, *(p for p in root.rglob("*") if p.is_dir())]
        for folder in folders:
            folder.chmod(0o555)
        try:
            yield "permission"
        finally:
            for folder in folders:
                folder.chmod(0o755)
        return
    with mounted("--bind", str(root), at=root) as possible:
        if not possible:
            cannot("a read-only mount is not permitted")
        subprocess.run(["mount", "-o", "remount,ro,bind", str(root)], check=True)
        yield "read-only"


def test_read_only_data_root_is_told_with_its_remedy_and_nothing_changes(
    site: CrashSite, fork: Callable[..., Child]
) -> None:
    site.prepare()
    before = {p: p.stat().st_mtime_ns for p in site.workspace.data_root.rglob("*")}
    with read_only(site.workspace.data_root) as word:
        child = fork()
        assert child.wait() == 1
        assert word in child.message.lower()
        assert str(site.workspace.data_root) in child.message
        assert {p: p.stat().st_mtime_ns for p in site.workspace.data_root.rglob("*")} == before
    site.check_healed(1, "read-only")
