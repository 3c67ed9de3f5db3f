"""Claims: one worker at a time, broken on proof of death alone."""

from __future__ import annotations

import errno
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator
from multiprocessing.context import ForkProcess
from multiprocessing.synchronize import Event
from pathlib import Path

import pytest

from morphseq_dagster.engine.storage import step_locks as claims
from morphseq_dagster.engine.storage.atomic_io import host_name
from morphseq_dagster.engine.storage.step_locks import (
    StepLock,
    break_dead_lock,
    hold_lock,
    holder_is_dead,
    name_attempt,
    process_start,
    read_lock,
)
from morphseq_dagster.errors import TransientError

FORK = multiprocessing.get_context("fork")


def claim_of(pid: int, *, host: str | None = None, start: str | None = None, attempt: str = "") -> StepLock:
    return StepLock(
        attempt=attempt,
        host=host or host_name(),
        pid=pid,
        process_start=process_start(pid) if start is None else start,
        run_id="r",
        taken_at="then",
        token="t",
    )


def write(path: Path, claim: StepLock) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(claim.model_dump_json())
    return path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "claims" / "20240418.letters.json"


def _hold(path: Path, ready: Event) -> None:
    with hold_lock(path, run_id="holder"):
        ready.set()
        time.sleep(60)


@pytest.fixture
def holder(path: Path) -> Iterator[ForkProcess]:
    """Another process that holds the claim until it is killed."""
    ready = FORK.Event()
    process = FORK.Process(target=_hold, args=(path, ready), daemon=True)
    process.start()
    assert ready.wait(30)
    yield process
    process.kill()
    process.join()


def test_claim_tells_its_holder_and_is_gone_afterwards(path: Path) -> None:
    with hold_lock(path, run_id="run7") as claim:
        assert read_lock(path) == claim
        assert claim.pid == os.getpid()
        assert "run7" in claim.holder()
        assert str(os.getpid()) in claim.holder()
    assert read_lock(path) is None
    assert [p.name for p in path.parent.iterdir() if p.name != ".breaking.lock"] == []


def test_claim_is_released_when_the_work_fails(path: Path) -> None:
    with pytest.raises(ZeroDivisionError), hold_lock(path, run_id="r"):
        raise ZeroDivisionError
    assert read_lock(path) is None


def test_live_holder_is_waited_for_and_shown_once(path: Path, holder: ForkProcess) -> None:
    shown: list[StepLock] = []
    with (
        pytest.raises(TransientError) as caught,
        hold_lock(path, run_id="r", on_wait=shown.append, patience_s=0.5),
    ):
        pytest.fail("the claim was taken from a live holder")
    assert [claim.pid for claim in shown] == [holder.pid]
    assert str(holder.pid) in caught.value.found
    assert caught.value.where == str(path)
    claim = read_lock(path)
    assert claim is not None
    assert claim.pid == holder.pid
    assert [p.name for p in path.parent.glob("*.tmp")] == []


def test_killed_holder_is_replaced(path: Path, holder: ForkProcess) -> None:
    assert not break_dead_lock(path)
    os.kill(int(holder.pid or 0), signal.SIGKILL)
    # Not joined: a zombie's work is over too.
    with hold_lock(path, run_id="next", patience_s=30) as claim:
        assert read_lock(path) == claim
    assert read_lock(path) is None


def test_stopped_holder_is_alive(path: Path, holder: ForkProcess) -> None:
    pid = int(holder.pid or 0)
    os.kill(pid, signal.SIGSTOP)
    try:
        assert not break_dead_lock(path)
    finally:
        os.kill(pid, signal.SIGCONT)


def test_process_number_used_again_does_not_keep_a_claim_alive(path: Path) -> None:
    write(path, claim_of(os.getpid(), start="1"))
    assert break_dead_lock(path)
    assert not path.exists()


def test_holder_on_another_host_is_never_declared_dead(path: Path) -> None:
    write(path, claim_of(2**22 + 1, host="elsewhere", start="1"))
    assert not break_dead_lock(path)
    with pytest.raises(TransientError, match="elsewhere"), hold_lock(path, run_id="r", patience_s=0.0):
        pytest.fail("the claim was taken")


def silence(path: Path, seconds: float) -> None:
    """Let the last sign of life of a claim be some time ago."""
    last = time.time() - seconds
    os.utime(path, (last, last))


@pytest.mark.parametrize(
    ("attempt", "silent_s", "over_silent"),
    [("", 10_000.0, True), ("jobs/a1", 60.0, True), ("jobs/a1", 10_000.0, False)],
    ids=["without a job", "alive a minute ago", "not asked for"],
)
def test_claim_of_another_host_is_kept(path: Path, attempt: str, silent_s: float, over_silent: bool) -> None:
    write(path, claim_of(1, host="elsewhere", start="1", attempt=attempt))
    silence(path, silent_s)
    with (
        pytest.raises(TransientError, match="elsewhere"),
        hold_lock(path, run_id="r", patience_s=0.0, over_silent=over_silent),
    ):
        pytest.fail("the claim was taken")


def test_silent_holder_that_waits_for_a_job_is_replaced_at_once_and_its_release_takes_nothing(path: Path) -> None:
    old = hold_lock(path, run_id="old")
    with old:
        assert name_attempt(path, attempt="jobs/a1")
        held = read_lock(path)
        assert held is not None
        write(path, held.model_copy(update={"host": "elsewhere"}))
        silence(path, claims.SILENT_S + 5)
        new = hold_lock(path, run_id="new", patience_s=0.0, over_silent=True)
        claim = new.__enter__()
    assert read_lock(path) == claim, "the old holder left the new one's claim"
    new.__exit__(None, None, None)
    assert sorted(p.name for p in path.parent.iterdir()) == [".breaking.lock"]


def test_attempt_is_named_once_and_by_the_holder_alone(path: Path) -> None:
    assert not name_attempt(path, attempt="jobs/a1"), "nobody holds it"
    with hold_lock(path, run_id="r") as claim:
        assert name_attempt(path, attempt="jobs/a1")
        assert name_attempt(path, attempt="jobs/a2")
        held = read_lock(path)
        assert held == claim.model_copy(update={"attempt": "jobs/a1"})
        assert held is not None
        assert "jobs/a1" in held.holder()
    assert read_lock(path) is None
    other = claim_of(os.getpid(), host="elsewhere")
    write(path, other)
    assert not name_attempt(path, attempt="jobs/a1")
    assert read_lock(path) == other


def test_holder_that_waits_for_a_job_shows_signs_of_life_until_it_is_done(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claims, "_BEAT_S", 0.01)
    with hold_lock(path, run_id="r"):
        name_attempt(path, attempt="jobs/a1")
        silence(path, 10_000)
        deadline = time.monotonic() + 30
        while time.time() - path.stat().st_mtime > 5_000:
            assert time.monotonic() < deadline
            time.sleep(0.01)
    assert not claims._BEATING


def test_claim_that_a_third_took_meanwhile_is_put_back(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    silent = claim_of(1, host="elsewhere", start="1", attempt="jobs/a1")
    third = claim_of(os.getpid()).model_copy(update={"token": "third"})
    write(path, silent)
    silence(path, 10_000)
    real = claims.holder_is_silent

    def swap(path: Path, *, lock: StepLock, clock: Path) -> bool:
        """The holder wakes up and releases between the look and the break, and a third takes the step."""
        found = real(path, lock=lock, clock=clock)
        path.unlink()
        write(path, third)
        return found

    monkeypatch.setattr(claims, "holder_is_silent", swap)
    with (
        pytest.raises(TransientError, match="held by"),
        hold_lock(path, run_id="r", patience_s=0.0, over_silent=True),
    ):
        pytest.fail("the claim was taken from a live holder")
    assert read_lock(path) == third


def test_holder_whose_start_is_unknown_counts_as_alive_while_its_number_lives() -> None:
    assert not holder_is_dead(claim_of(os.getpid(), start="unknown"))
    assert not holder_is_dead(claim_of(os.getpid(), start=""))
    assert holder_is_dead(claim_of(2**22 + 1, start="unknown"))


def test_claim_that_cannot_be_understood_is_an_error_not_a_free_step(path: Path) -> None:
    path.parent.mkdir(parents=True)
    path.write_text("{}")
    with pytest.raises(TransientError) as caught, hold_lock(path, run_id="r", patience_s=0.0):
        pytest.fail("the claim was taken")
    assert caught.value.where == str(path)


def test_release_leaves_the_claim_of_another(path: Path) -> None:
    other = claim_of(os.getpid(), start="x")
    with hold_lock(path, run_id="r"):
        path.unlink()
        write(path, other)
    assert read_lock(path) == other


def test_claim_taken_by_a_call_that_then_fails_is_not_left_held(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Held by a living process that does not know of it, the step would be blocked until that process ends.
    real = os.link

    def link(source: Path, target: Path) -> None:
        real(source, target)
        monkeypatch.setattr(Path, "unlink", refuse)

    def refuse(self: Path, missing_ok: bool = False) -> None:
        monkeypatch.undo()
        raise OSError(errno.EIO, "refused")

    monkeypatch.setattr(os, "link", link)
    with pytest.raises(OSError, match="refused"), hold_lock(path, run_id="r"):
        pytest.fail("the claim was taken")
    assert read_lock(path) is None


def test_threads_of_one_process_exclude_each_other(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "_POLL_SECONDS", 0.002)
    inside: list[int] = []
    met: list[int] = []

    def work(number: int) -> None:
        for _ in range(5):
            with hold_lock(path, run_id=str(number)):
                inside.append(number)
                met.append(len(inside))
                inside.remove(number)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert met == [1] * 20


def _increase(path: Path, counter: Path, rounds: int, die: bool) -> None:
    claims._POLL_SECONDS = 0.002
    for number in range(rounds):
        with hold_lock(path, run_id=f"{os.getpid()}.{number}"):
            before = int(counter.read_text())
            os.sched_yield()
            counter.write_text(str(before + 1))
            if die and number == rounds - 1:
                os.kill(os.getpid(), signal.SIGKILL)


def test_no_two_processes_hold_a_claim_also_when_holders_are_killed(path: Path, tmp_path: Path) -> None:
    counter = tmp_path / "counter"
    counter.write_text("0")
    processes = [FORK.Process(target=_increase, args=(path, counter, 8, n % 2 == 0)) for n in range(6)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode in (0, -signal.SIGKILL)
    # Each rise read the number, yielded and wrote it: two holders at once would have lost one.
    assert counter.read_text() == "48"
    with hold_lock(path, run_id="last", patience_s=30):
        pass


def test_break_under_a_race_takes_the_dead_claim_and_never_the_new_one(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claims, "_POLL_SECONDS", 0.001)
    taken: list[str] = []
    for _ in range(10):
        write(path, claim_of(2**22 + 1, start="1"))
        barrier = threading.Barrier(4)

        def take(number: int, barrier: threading.Barrier = barrier) -> None:
            barrier.wait()
            with hold_lock(path, run_id=str(number)) as claim:
                assert read_lock(path) == claim
                taken.append(claim.run_id)
                assert read_lock(path) == claim

        threads = [threading.Thread(target=take, args=(n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(taken) == sorted("0123" * 10)


def test_start_of_a_process_is_stable_and_empty_for_none(holder: ForkProcess) -> None:
    pid = int(holder.pid or 0)
    assert process_start(os.getpid()) == process_start(os.getpid()) != ""
    assert process_start(pid) != ""
    assert process_start(2**22 + 1) == ""


def test_waiting_ends_soon_after_the_holder_is_done(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "_POLL_SECONDS", 0.002)
    waiting = threading.Event()
    order: list[str] = []

    def second() -> None:
        with hold_lock(path, run_id="second", on_wait=lambda claim: waiting.set()):
            order.append("second")

    thread = threading.Thread(target=second)
    with hold_lock(path, run_id="first"):
        thread.start()
        assert waiting.wait(30)
        order.append("first")
    thread.join(30)
    assert order == ["first", "second"]
