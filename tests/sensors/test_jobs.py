"""The sensor of cluster jobs: states of runs as Dagster knows them, and a tick on a real scheduler."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.events import EngineEventData

from morphseq_dagster.build import build_definitions
from morphseq_dagster.cluster.attempt_folder import JobRoot
from morphseq_dagster.cluster.job_handle import JobHandle
from morphseq_dagster.cluster.request_job import RequestJob
from morphseq_dagster.engine.locked_step import lock_step
from morphseq_dagster.runs.states import PROCESS_TAG, state_of_run
from morphseq_dagster.sensors.jobs import SENSOR
from morphseq_dagster.settings.machine import MachineSettings, PlacesSettings
from morphseq_dagster.settings.slurm import SlurmSettings
from morphseq_dagster.testing.chain import TOY, open_toy, write_words
from tests.support.slurm_cluster import LocalCluster

EXP = "20240418"
GONE = 2**22 + 1  # above the largest number of a process
STATUS = dg.DagsterRunStatus


@dg.job
def nothing() -> None:
    pass


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.local_temp(str(tmp_path)) as found:
        yield found


def tick(data_root: Path, instance: dg.DagsterInstance, *, slurm: SlurmSettings | None) -> str:
    places = PlacesSettings.model_validate({"slurm": slurm})
    definitions = build_definitions(MachineSettings(data_root=data_root, places=places), pipeline=TOY)
    sensor = definitions.get_repository_def().get_sensor_def(SENSOR)
    assert sensor.default_status is dg.DefaultSensorStatus.STOPPED
    assert sensor.minimum_interval_seconds == 60
    resources = {"workspace": definitions.resources["workspace"]} if definitions.resources else {}
    context = dg.build_sensor_context(instance=instance, resources=resources, definitions=definitions)
    reason = sensor(context)
    assert isinstance(reason, dg.SkipReason)
    return str(reason.skip_message)


@pytest.mark.parametrize(
    ("status", "state"),
    [
        (STATUS.NOT_STARTED, "live"),
        (STATUS.STARTED, "live"),
        (STATUS.CANCELED, "canceled"),
        (STATUS.FAILURE, "over"),
        (STATUS.SUCCESS, "over"),
    ],
)
def test_state_of_a_run_is_dagsters(instance: dg.DagsterInstance, status: dg.DagsterRunStatus, state: str) -> None:
    run = instance.create_run_for_job(nothing, status=status)
    assert state_of_run(instance, run.run_id).state == state


def test_state_of_an_unknown_run_is_unknown(instance: dg.DagsterInstance) -> None:
    assert state_of_run(instance, "no-such-run").state == "unknown"
    assert state_of_run(instance, "").state == "unknown"


def test_run_whose_process_is_gone_is_over_whatever_dagster_believes(instance: dg.DagsterInstance) -> None:
    started, stopping = (
        instance.create_run_for_job(nothing, status=status) for status in (STATUS.STARTED, STATUS.CANCELING)
    )
    for run in (started, stopping):
        assert state_of_run(instance, run.run_id).state == "live"
        instance.report_engine_event("Started", run, EngineEventData.in_process(GONE))
    assert state_of_run(instance, started.run_id).state == "over"
    assert state_of_run(instance, stopping.run_id).state == "canceled"
    elsewhere = instance.create_run_for_job(nothing, status=STATUS.STARTED, tags={PROCESS_TAG: f"elsewhere:{GONE}:1"})
    assert state_of_run(instance, elsewhere.run_id).state == "live"


def test_end_of_a_run_is_dated(instance: dg.DagsterInstance) -> None:
    result = nothing.execute_in_process(instance=instance)
    word = state_of_run(instance, result.run_id)
    assert word.ended_at is not None
    assert 0 <= time.time() - word.ended_at < 60


def test_without_a_cluster_a_tick_says_so(tmp_path: Path, instance: dg.DagsterInstance) -> None:
    assert "places.slurm" in tick(tmp_path / "root", instance, slurm=None)


@pytest.mark.slurm
def test_a_tick_hands_over_what_a_failed_runs_job_made(
    tmp_path: Path, instance: dg.DagsterInstance, cluster: LocalCluster
) -> None:
    workspace, settings = open_toy(tmp_path / "root"), cluster.settings()
    write_words(workspace.layout, EXP, words={"A01": "fish"})
    run = instance.create_run_for_job(nothing, status=STATUS.FAILURE)
    spec = workspace.pipeline.steps[0]
    with lock_step(spec, workspace=workspace, experiment=EXP, run_id=run.run_id) as session:
        live = RequestJob(settings, pipeline=TOY, request=session.request).ensure()
    assert isinstance(live, JobHandle)
    deadline = time.monotonic() + 240
    while live.attempt.record("end") is None:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    told = tick(workspace.data_root, instance, slurm=settings)
    assert told == "jobs: 1 closed as done; reported 1 artifacts to Dagster"
    assert list(JobRoot(workspace.layout.jobs).open_attempts()) == []
    event = instance.get_latest_materialization_event(dg.AssetKey("letters"))
    assert event is not None
    assert event.asset_materialization is not None
    assert event.asset_materialization.partition == EXP
    assert tick(workspace.data_root, instance, slurm=settings) == "jobs: none without a verdict"
