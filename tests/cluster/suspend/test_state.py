"""Locks and states of runs: who is alive, whatever was killed."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from morphseq_dagster.cluster.suspend.state import WorkerState, WorkerStates
from morphseq_dagster.cluster.suspend.worker import may_suspend
from morphseq_dagster.settings.slurm import SUSPENSION_VARIABLE

RUN = "4f5c8a52-0f4c-4d6a-9a5c-1c7f6f1f5f00"
SLEEP = "import time; print('up', flush=True); time.sleep(600)"


@pytest.fixture
def states(tmp_path: Path) -> WorkerStates:
    return WorkerStates(tmp_path)


@pytest.fixture
def worker(states: WorkerStates) -> Iterator[subprocess.Popen[bytes]]:
    """A process that inherited the lock, and whose maker has let it go."""
    with states.hold(RUN) as lock:
        assert lock is not None
        os.write(lock, b"0")
        child = subprocess.Popen(
            [sys.executable, "-c", SLEEP],
            stdout=subprocess.PIPE,
            pass_fds=(lock,),
            env={**os.environ, SUSPENSION_VARIABLE: str(states.path_of(RUN))},
        )
    assert child.stdout is not None
    child.stdout.readline()
    yield child
    child.kill()
    child.wait()


def lock_file(states: WorkerStates) -> Path:
    return states.folder / f"{RUN}.lock"


def test_lock_is_held_as_long_as_the_process_lives_and_free_however_it_ends(
    states: WorkerStates, worker: subprocess.Popen[bytes]
) -> None:
    assert states.is_held(RUN)
    assert states.at_work() == 1
    with states.hold(RUN) as lock:
        assert lock is None
    worker.kill()
    assert states.wait_until_free(RUN, timeout_s=120)  # before anybody has waited for the child: a zombie holds nothing
    with states.hold(RUN) as lock:
        assert lock is not None
        assert states.is_held(RUN)
    assert (states.is_held(RUN), states.at_work()) == (False, 0)


def test_looking_does_not_keep_others_from_taking_the_lock(states: WorkerStates) -> None:
    with states.hold(RUN):
        pass
    for _ in range(50):
        assert not states.is_held(RUN)
        with states.hold(RUN) as lock:
            assert lock is not None


def test_only_a_worker_of_this_run_is_interrupted(states: WorkerStates, worker: subprocess.Popen[bytes]) -> None:
    lock_file(states).write_text("")
    assert not states.interrupt(RUN), "it has not said its number yet"
    with subprocess.Popen([sys.executable, "-c", SLEEP], stdout=subprocess.PIPE) as stranger:
        assert stranger.stdout is not None
        stranger.stdout.readline()
        lock_file(states).write_text(f"{stranger.pid}\n")
        assert not states.interrupt(RUN), "another process has got the number"
        assert stranger.poll() is None
        stranger.kill()
    lock_file(states).write_text(f"{worker.pid}\n")
    assert states.interrupt(RUN)
    assert worker.wait(timeout=120) != 0


def test_note_comes_back_as_it_was_written(states: WorkerStates) -> None:
    assert states.read(RUN) is None
    with states.hold(RUN):
        states.write(WorkerState(run_id=RUN, crashes=2))
    assert states.read(RUN) == WorkerState(run_id=RUN, crashes=2)
    assert states.suspended() == []
    states.forget(RUN)
    assert list(states.folder.iterdir()) == []


@pytest.mark.parametrize("run_id", ["", RUN])
def test_process_that_the_launcher_did_not_start_never_parks(run_id: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(SUSPENSION_VARIABLE, raising=False)
    assert not may_suspend(run_id)


def test_worker_parks_for_its_own_run_alone(states: WorkerStates, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SUSPENSION_VARIABLE, str(states.path_of(RUN)))
    assert may_suspend(RUN)
    assert not may_suspend("another")
