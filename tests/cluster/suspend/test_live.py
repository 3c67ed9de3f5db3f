"""Runs that suspend, as users meet them: real web server, daemon and code server, real scheduler."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

import pytest

from morphseq_dagster.cluster.attempt_folder import Attempt
from morphseq_dagster.settings.machine import PlacesSettings
from tests.support.installation import Installation, suspending_settings
from tests.support.slurm_gate import Gate

pytestmark = pytest.mark.slurm


def kind_of(attempt: Attempt) -> str:
    return str((attempt.record("closed") or {}).get("kind"))


def says(live: Installation, run: str, words: str) -> bool:
    return any(words in event.get("message", "") for event in live.events(run))


def test_runs_park_and_end_as_their_jobs_do(live: Installation, gate: Gate) -> None:
    gate.close()
    good = live.launch(live.add("20240101"))
    bad = live.launch(live.add("20240102", word="kill"))
    live.await_suspended(good, bad)
    jobs = sorted(gate.jobs())
    assert len(jobs) == 2
    assert live.tag(good, "morphseq/parked").split()[:2] == ["job", live.attempts("20240101")[0].job]
    assert not list((live.data_root / ".morphseq" / "claims").glob("*.json")), "nobody holds a step"

    # While they wait, one question for both; without an answer they wait on and their logs say so.
    before = len(gate.asked())

    def for_both() -> list[bool]:
        """Of each question, once one is for both; the one before may have been on its way when the second suspended."""
        found = [set(jobs) <= set(re.findall(r"\d+", line.partition(" ")[2])) for line in gate.asked()[before:]]
        return found[found.index(True) :] if True in found[:2] else []

    live.wait_for(lambda: len(for_both()) >= 3, seconds=120, what="questions")
    assert all(for_both())
    gate.switch("mute", on=True)
    live.wait_for(
        lambda: any("No contact" in event.get("message", "") for event in live.events(good)), seconds=240, what="words"
    )
    gate.switch("mute", on=False)
    live.wait_for(
        lambda: any("answers again" in event.get("message", "") for event in live.events(good)),
        seconds=240,
        what="words",
    )
    assert [live.status(run) for run in (good, bad)] == ["STARTED", "STARTED"]
    assert not live.processes(good)
    assert not live.processes(bad)

    gate.open()
    assert live.await_ends(good, bad) == ["SUCCESS", "FAILURE"]
    made = live.events(good, kind="MaterializationEvent")
    assert [event["stepKey"] for event in made] == ["letters", "lengths", "summary"]
    facts = {entry["label"]: entry.get("text") for entry in made[0]["metadataEntries"]}
    (attempt,) = live.attempts("20240101")
    assert (facts["job/job"], facts["job/outcome"], kind_of(attempt)) == (attempt.job, "done", "done")
    (attempt,) = live.attempts("20240102")
    assert kind_of(attempt) == "killed"
    told = " ".join(
        str(event.get("message")) + str(event) for event in live.events(bad, kind="ExecutionStepFailureEvent")
    )
    assert "letters" in told
    assert live.tag(good, "morphseq/parked") == "no"


def test_suspended_runs_are_cancelled_with_their_jobs(live: Installation, gate: Gate) -> None:
    asked = live.launch(live.add("20240103", slow_s=600))
    live.await_suspended(asked)
    (running,) = live.attempts("20240103")
    live.wait_for(lambda: running.record("start"), seconds=240, what="the job to begin")
    gate.close()
    forced = live.launch(live.add("20240104"))
    live.await_suspended(forced)
    assert len(gate.jobs()) == 2
    assert live.terminate(asked) == "TerminateRunSuccess"
    assert live.terminate(forced, force=True) == "TerminateRunSuccess"
    assert [live.status(run) for run in (asked, forced)] == ["CANCELED", "CANCELED"]
    assert gate.jobs() == []
    assert [kind_of(a) for a in live.attempts("20240103") + live.attempts("20240104")] == ["cancelled", "cancelled"]
    assert says(live, asked, "cancelled with it: job")


def test_run_with_a_process_is_cancelled_through_it(live: Installation) -> None:
    run = live.launch(live.add("20200101", slow_s=600))
    claim = live.data_root / ".morphseq" / "claims" / "20200101.letters.json"
    live.wait_for(claim.exists, seconds=240, what="the step to begin")
    assert live.terminate(run) == "TerminateRunSuccess"
    assert live.await_ends(run) == ["CANCELED"]
    live.wait_for(lambda: not live.processes(run), seconds=240, what="the process to end")
    assert not claim.exists()


def test_run_goes_on_after_its_process_was_killed_and_its_job_is_taken_over(live: Installation, gate: Gate) -> None:
    gate.switch("stall", on=True)
    gate.close()
    run = live.launch(live.add("20240106"))
    live.wait_for(lambda: [a for a in live.attempts("20240106") if a.job], seconds=240, what="the job")
    worker = int((live.home / "workers" / f"{run}.lock").read_text())
    assert worker in live.processes(run), "without an answer of any kind it waits"
    os.kill(worker, signal.SIGKILL)
    gate.open()
    assert live.await_ends(run) == ["SUCCESS"]
    (attempt,) = live.attempts("20240106")
    assert kind_of(attempt) == "done"


def test_suspended_runs_outlive_web_server_daemon_and_code_server(live: Installation, gate: Gate) -> None:
    gate.close()
    runs = [live.launch(live.add(experiment)) for experiment in ("20240107", "20240108")]
    live.await_suspended(*runs)
    live.stop(kill=True)
    assert live.servers == []
    gate.open()
    live.wait_for(lambda: not gate.jobs(), seconds=240, what="the jobs to end")
    live.start()
    assert live.await_ends(*runs) == ["SUCCESS", "SUCCESS"]
    assert [kind_of(a) for a in live.attempts("20240107") + live.attempts("20240108")] == ["done", "done"]


@pytest.mark.slow
def test_forced_chain_at_the_cluster_parks_once_per_step_and_computes_nothing_twice(gate: Gate, tmp_path: Path) -> None:
    places = PlacesSettings.model_validate({"summary": "process", "slurm": gate.settings()})
    live = Installation(tmp_path / "chain", suspending_settings(), places, place="slurm")
    live.start()
    try:
        experiment = live.add("20240101")
        first = live.launch(experiment)
        assert live.await_ends(first, seconds=400) == ["SUCCESS"]
        forced = live.launch(experiment, tags={"morphseq/force": "all"})
        assert live.await_ends(forced, seconds=400) == ["SUCCESS"]
        for run in (first, forced):
            suspended = [
                event["stepKey"] for event in live.events(run) if event.get("message", "").startswith("Suspended")
            ]
            assert sorted(set(suspended)) == ["lengths", "letters"]
            mine = [a for a in live.attempts(experiment) if (a.record("intent") or {})["run_id"] == run]
            assert [kind_of(attempt) for attempt in mine] == ["done", "done"]
    finally:
        live.stop(kill=True)


@pytest.mark.slow
def test_more_runs_than_processes_park_at_once_and_each_is_executed_once(gate: Gate, tmp_path: Path) -> None:
    places = PlacesSettings.model_validate({"letters": "slurm", "slurm": gate.settings()})
    live = Installation(tmp_path / "many", suspending_settings(max_workers=2, max_concurrent_runs=2), places)
    live.start()
    before = len(gate.calls("sbatch"))
    try:
        gate.close()
        names = [f"2024010{number}" for number in range(1, 7)]
        runs = [live.launch(live.add(name)) for name in names]
        live.await_suspended(*runs, seconds=240)
        jobs = set(gate.jobs())
        assert jobs == {attempt.job for name in names for attempt in live.attempts(name)}
        asked = len(gate.asked())
        live.wait_for(lambda: len(gate.asked()) >= asked + 3, seconds=240, what="questions")
        for line in gate.asked()[asked:]:
            assert jobs <= set(line.replace("=", " ").replace(",", " ").split()), "one question for all"
        gate.open()
        assert live.await_ends(*runs, seconds=240) == ["SUCCESS"] * 6
        assert len(gate.calls("sbatch")) == before + 6
        attempts = [attempt for name in names for attempt in live.attempts(name)]
        assert [kind_of(attempt) for attempt in attempts] == ["done"] * 6
        for run in runs:
            suspended = [event for event in live.events(run) if event.get("message", "").startswith("Suspended")]
            assert len({event["message"] for event in suspended}) == 1
    finally:
        live.stop(kill=True)
