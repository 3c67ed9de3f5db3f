"""Assets of the toy pipeline beside others at work, in processes of their own, in another data root."""

from __future__ import annotations

import multiprocessing
import time
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Event
from pathlib import Path

import dagster as dg

from morphseq_dagster.engine.storage.step_locks import hold_lock, read_lock
from tests.support.toy_runs import EXPERIMENT, STEPS, Runs, computed, failed, published


def _hold(path: Path, ready: Event, release: Event) -> None:
    with hold_lock(path, run_id="the-other-run"):
        ready.set()
        release.wait(60)


def test_run_waits_for_the_claim_of_another_and_shows_it(runs: Runs) -> None:
    fork = multiprocessing.get_context("fork")
    ready, release = fork.Event(), fork.Event()
    claim = runs.workspace.layout.lock("letters", experiment=EXPERIMENT)
    other = fork.Process(target=_hold, args=(claim, ready, release))
    other.start()
    assert ready.wait(30)
    later = fork.Process(target=_release_when_waited_for, args=(claim.parent, release))
    later.start()
    result = runs.run()
    other.join(30)
    later.join(30)
    assert later.exitcode == 0
    assert computed(result) == STEPS
    logs = runs.instance.all_logs(result.run_id)
    assert any("the-other-run" in entry.user_message for entry in logs)


def _release_when_waited_for(folder: Path, release: Event) -> None:
    """Let the holder go soon after somebody asked whether it is dead, that is, met the claim and shows it."""
    for _ in range(3000):
        if (folder / ".breaking.lock").exists():
            time.sleep(0.5)
            release.set()
            return
        time.sleep(0.01)
    raise SystemExit("nobody waited")


def _run_in_a_process(root: Path, start: Event, codes: Queue[list[str]]) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        runs = Runs(root, instance)
        start.wait(60)
        codes.put(computed(runs.run()))


def test_two_runs_at_once_compute_each_step_once(runs: Runs) -> None:
    fork = multiprocessing.get_context("fork")
    runs.words(**{f"A{n:02d}": f"word{n}" for n in range(1, 9)})
    start, made = fork.Event(), fork.Queue()
    both = [fork.Process(target=_run_in_a_process, args=(runs.workspace.data_root, start, made)) for _ in range(2)]
    for process in both:
        process.start()
    start.set()
    first, second = made.get(timeout=120), made.get(timeout=120)
    for process in both:
        process.join(60)
        assert process.exitcode == 0
    assert sorted(first + second) == sorted(STEPS)
    assert computed(runs.run()) == []


def test_process_subprocess_and_another_root_give_the_same_bytes(
    runs: Runs, tmp_path: Path, instance: dg.DagsterInstance
) -> None:
    runs.run()
    other = Runs(tmp_path / "another root" / "ü", instance, place="subprocess")
    other.words(A01="fish", A02="fin")
    result = other.run()
    assert computed(result) == STEPS
    assert published(other.workspace.data_root) == published(runs.workspace.data_root)
    assert {other.record(step).place for step in STEPS} == {"subprocess"}
    for step in STEPS:
        assert other.record(step).data_version == runs.record(step).data_version
    assert computed(other.run()) == []


def test_child_killed_by_the_system_is_told_as_transient_with_its_remedy(
    tmp_path: Path, instance: dg.DagsterInstance
) -> None:
    runs = Runs(tmp_path / "root", instance, places={"letters": "subprocess"})
    runs.words(A01="fish", A02="kill")
    told = failed(runs.run())
    assert told["step"] == "letters"
    assert "SIGKILL" in told["text"]
    assert "memory" in told["text"]
    assert told["data"].metadata["remedy"].value
    failure = runs.failure("letters")
    assert failure is not None
    assert (failure.error.kind, failure.tries) == ("transient", 1)
    assert read_lock(runs.workspace.layout.lock("letters", experiment=EXPERIMENT)) is None
    runs.words(A01="fish", A02="fin")
    assert computed(runs.run()) == STEPS
    assert runs.record("letters").counts["computed"] == 1, "the well finished before the kill was kept"


def test_error_of_a_child_fails_the_asset_with_its_parts(tmp_path: Path, instance: dg.DagsterInstance) -> None:
    runs = Runs(tmp_path / "root", instance, place="subprocess")
    runs.words(A01="fail", A02="fail")
    told = failed(runs.run())
    assert told["data"].metadata["found"].value.startswith("2 failed")
    failure = runs.failure("letters")
    assert failure is not None
    assert failure.tries == 1
