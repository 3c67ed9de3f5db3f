"""Two workflows in one Dagster instance, each as a code location: assets, IO manager, partitions, jobs, checks."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from morphseq_dagster.build import COHORT_JOB, PIPELINE_JOB, build_definitions
from morphseq_dagster.engine.storage.records import read_record
from morphseq_dagster.engine.workspace import Workspace
from morphseq_dagster.jobs.bulk import BULK_JOB
from morphseq_dagster.morphseq import PIPELINE as MORPHSEQ_NAME
from morphseq_dagster.morphseq.pipeline import MORPHSEQ
from morphseq_dagster.partitions import bulk_config, find_busy, find_registered, register_keys
from morphseq_dagster.settings.machine import MachineSettings
from morphseq_dagster.testing.training import PIPELINE, TRAINING
from tests.second_workflow.conftest import CNN, MLP

EXPERIMENT = "20240418"


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


@pytest.fixture
def definitions(study: Workspace) -> dg.Definitions:
    return build_definitions(MachineSettings(data_root=study.data_root), pipeline=PIPELINE)


def run(definitions: dg.Definitions, instance: dg.DagsterInstance, condition: str) -> dg.ExecuteInProcessResult:
    register_keys(instance, [condition], pipeline=TRAINING)
    job = definitions.resolve_job_def(PIPELINE_JOB)
    return job.execute_in_process(instance=instance, partition_key=condition, raise_on_error=False)


def test_assets_are_published_through_the_io_manager_and_stand_the_second_time(
    definitions: dg.Definitions, instance: dg.DagsterInstance, study: Workspace
) -> None:
    result = run(definitions, instance, CNN)
    assert result.success
    made = [m.asset_key.path[-1] for m in (e.materialization for e in result.get_asset_materialization_events())]  # type: ignore[union-attr]
    assert made == list(TRAINING.step_names)
    record = read_record(study.layout, primary=study.output("scores", experiment=CNN))
    assert record is not None
    assert record.run_id == result.run_id
    again = run(definitions, instance, CNN)
    tags = [e.materialization.tags or {} for e in again.get_asset_materialization_events()]  # type: ignore[union-attr]
    assert [tag.get("morphseq/memo") for tag in tags] == ["hit"] * 3


def test_the_cohort_of_keys_that_are_no_names_of_tags_is_joined(
    definitions: dg.Definitions, instance: dg.DagsterInstance, study: Workspace
) -> None:
    for condition in (CNN, MLP):
        assert run(definitions, instance, condition).success
    result = definitions.resolve_job_def(COHORT_JOB).execute_in_process(instance=instance)
    assert result.success
    assert (study.data_root / "results" / "comparison.csv").is_file()


def test_one_run_over_many_conditions(
    definitions: dg.Definitions, instance: dg.DagsterInstance, study: Workspace
) -> None:
    register_keys(instance, [CNN, MLP], pipeline=TRAINING)
    job = definitions.resolve_job_def(BULK_JOB)
    assert job.execute_in_process(instance=instance, run_config=bulk_config([CNN, MLP])).success
    for condition in (CNN, MLP):
        assert study.output("scores", experiment=condition).is_file()


def test_partitions_and_runs_of_two_workflows_are_kept_apart(instance: dg.DagsterInstance, tmp_path: Path) -> None:
    register_keys(instance, [CNN], pipeline=TRAINING)
    register_keys(instance, [EXPERIMENT], pipeline=MORPHSEQ)
    assert find_registered(instance, pipeline=TRAINING) == {CNN}
    assert find_registered(instance, pipeline=MORPHSEQ) == {EXPERIMENT}
    for name, key, root in ((PIPELINE, CNN, "study"), (MORPHSEQ_NAME, EXPERIMENT, "plates")):
        definitions = build_definitions(MachineSettings(data_root=tmp_path / root), pipeline=name)
        job = definitions.resolve_job_def(PIPELINE_JOB)
        tags = {"dagster/partition": key}
        instance.create_run_for_job(job_def=job, status=dg.DagsterRunStatus.STARTED, tags={**job.tags, **tags})
    assert set(find_busy(instance, pipeline=TRAINING)) == {CNN}
    assert set(find_busy(instance, pipeline=MORPHSEQ)) == {EXPERIMENT}


def test_two_code_locations_serve_one_instance_by_dagsters_own_commands(study: Workspace, tmp_path: Path) -> None:
    home, plates = tmp_path / "home", tmp_path / "plates"
    home.mkdir()
    plates.mkdir()
    (tmp_path / "workspace.yaml").write_text(
        "load_from:\n"
        "  - python_module: morphseq_dagster.definitions\n"
        "  - python_module: morphseq_dagster.testing.training_definitions\n"
    )
    variables = {
        "DAGSTER_HOME": str(home),
        "MORPHSEQ_DATA_ROOT": str(plates),
        "MORPHSEQ_TRAINING_ROOT": str(study.data_root),
    }

    def dagster(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "dagster", *arguments],
            cwd=tmp_path,
            env={**os.environ, **variables},
            capture_output=True,
            text=True,
            check=False,
        )

    found = dagster("definitions", "validate", "-w", "workspace.yaml")
    assert found.returncode == 0, found.stderr
    with dg.DagsterInstance.from_config(str(home)) as instance:
        register_keys(instance, [MLP], pipeline=TRAINING)
    module = ("-m", "morphseq_dagster.testing.training_definitions")
    done = dagster("asset", "materialize", "--select", "*", "--partition", MLP, *module)
    assert done.returncode == 0, done.stderr
    assert study.output("scores", experiment=MLP).is_file()
