"""The job `materialize_stale` ended on the web page while a job works for it: real servers, real scheduler."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from morphseq_dagster.settings.machine import PlacesSettings
from tests.support.experiments import REGISTRY_NAME, make_small_frames
from tests.support.installation import Installation, shipped_settings, suspending_settings
from tests.support.slurm_cluster import LocalCluster
from tests.support.slurm_gate import Gate

pytestmark = pytest.mark.slurm
FIRST, SECOND = "20250501_ctrl", "20250502_ctrl"
_RUNS = "{ runsOrError { ... on Runs { results { id jobName status tags { key value } } } } }"


@pytest.fixture(scope="module")
def gate(cluster: LocalCluster, tmp_path_factory: pytest.TempPathFactory) -> Gate:
    return Gate(cluster, tmp_path_factory.mktemp("commands"))


@pytest.mark.parametrize("settings", [shipped_settings, pytest.param(suspending_settings, marks=pytest.mark.slow)])
def test_terminated_mending_cancels_its_run_and_the_job_and_begins_no_other(
    gate: Gate, tmp_path: Path, settings: Callable[[], dict[str, Any]]
) -> None:
    preamble = tmp_path / "slow.sh"
    preamble.write_text("sleep 600\n")
    places = PlacesSettings.model_validate({"raw_manifest": "slurm", "slurm": gate.settings(preamble=str(preamble))})
    live = Installation(tmp_path / "installation", settings(), places, pipeline=REGISTRY_NAME)
    for name in (FIRST, SECOND):
        make_small_frames(live.data_root, experiment=name)
    live.start()
    try:
        for name in (FIRST, SECOND):
            live.register(name)
        config = {"ops": {"mend": {"config": {"experiments": [FIRST, SECOND]}}}}
        run = live.launch_job("materialize_stale", config=config)
        live.wait_for(lambda: gate.cluster.ask("squeue", "-h", "-t", "RUNNING"), seconds=300, what="the job")
        assert live.terminate(run) == "TerminateRunSuccess"
        assert live.await_ends(run) == ["CANCELED"]
        live.wait_for(lambda: not live.processes(run), seconds=240, what="the process to end")

        (attempt,) = live.attempts(FIRST)
        assert (attempt.record("closed") or {}).get("kind") == "cancelled"
        assert gate.jobs() == []
        assert live.attempts(SECOND) == []
        assert not list((live.data_root / ".morphseq" / "claims").glob("*.json"))
        found = {(found["jobName"], found["status"]) for found in live.ask(_RUNS)["results"]}
        assert found == {("materialize_stale", "CANCELED"), ("pipeline", "CANCELED")}
    finally:
        live.stop(kill=True)
