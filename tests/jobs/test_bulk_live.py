"""A run of the job `bulk` as the web page starts and ends it: real web server, daemon, code server and scheduler."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from morphseq_dagster.engine.storage.records import read_record
from morphseq_dagster.partitions import BULK_JOB, bulk_config
from morphseq_dagster.settings.machine import PlacesSettings
from morphseq_dagster.testing.chain import open_toy
from tests.support.installation import Installation, shipped_settings
from tests.support.slurm_cluster import LocalCluster
from tests.support.slurm_gate import Gate

pytestmark = pytest.mark.slurm
QUICK, LONG = ("20240101", "20240102"), tuple(f"202402{day:02d}" for day in range(1, 9))
STEPS = ("letters", "lengths", "summary")


@pytest.fixture(scope="module")
def gate(cluster: LocalCluster, tmp_path_factory: pytest.TempPathFactory) -> Gate:
    return Gate(cluster, tmp_path_factory.mktemp("commands"))


@pytest.fixture
def live(gate: Gate, tmp_path: Path) -> Iterator[Installation]:
    places = PlacesSettings.model_validate({"letters": "slurm", "slurm": gate.settings()})
    found = Installation(tmp_path / "installation", shipped_settings(), places)
    found.start()
    try:
        yield found
    finally:
        found.stop(kill=True)


def test_terminated_run_over_many_cancels_all_jobs_at_once_and_keeps_what_is_finished(
    live: Installation, gate: Gate
) -> None:
    workspace = open_toy(live.data_root)
    names = [*(live.add(name) for name in QUICK), *(live.add(name, slow_s=600) for name in LONG)]

    def made(step: str, name: str) -> object:
        return read_record(workspace.layout, primary=workspace.output(step, experiment=name))

    run = live.launch_job(BULK_JOB, config=bulk_config(names))
    live.wait_for(
        # The result is there a moment before Dagster is told of it, and a run that ends in between does not tell it.
        lambda: len(live.events(run, kind="MaterializationEvent")) == len(STEPS) * len(QUICK),
        seconds=240,
        what="the quick experiments",
    )
    live.wait_for(
        lambda: sum(bool(attempt.record("start")) for name in LONG for attempt in live.attempts(name)) == len(LONG),
        seconds=240,
        what="the jobs to begin",
    )
    attempts = [attempt for name in LONG for attempt in live.attempts(name)]
    assert len(attempts) == len(LONG)
    assert live.terminate(run) == "TerminateRunSuccess"
    assert live.await_ends(run) == ["CANCELED"]

    assert gate.jobs() == []
    (call,) = gate.calls("scancel")
    assert {attempt.job for attempt in attempts} <= set(call.replace(",", " ").split())
    assert {(attempt.record("closed") or {}).get("kind") for attempt in attempts} == {"cancelled"}
    live.wait_for(lambda: not live.processes(run), seconds=240, what="the process to end")
    assert not list((live.data_root / ".morphseq" / "claims").glob("*.json"))
    assert all(made(step, name) for step in STEPS for name in QUICK)
    assert not any(made(step, name) for step in STEPS for name in LONG)
    events = live.events(run, kind="MaterializationEvent")
    assert len(events) == len(STEPS) * len(QUICK)
    assert len(gate.calls("sbatch")) == len(names)
