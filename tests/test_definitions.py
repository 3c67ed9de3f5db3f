"""The definitions as Dagster loads them: a readable snapshot, equality with the pipeline, registration, environment."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest

import morphseq_dagster
from morphseq_dagster.build import COHORT_JOB, PIPELINE_JOB, build_definitions
from morphseq_dagster.morphseq import PIPELINE
from morphseq_dagster.morphseq.pipeline import MORPHSEQ
from morphseq_dagster.settings.machine import MachineSettings

SNAPSHOT = Path(__file__).with_name("definitions.txt")
TEMPLATE = Path(morphseq_dagster.__file__).parent / "templates" / "dagster.yaml"
COHORT = "cohort_final"
OURS = ("DAGSTER_HOME", "MORPHSEQ_DATA_ROOT", "MORPHSEQ_REGISTER_PARTITIONS", "MORPHSEQ_PIPELINE")


@pytest.fixture(scope="module")
def definitions(tmp_path_factory: pytest.TempPathFactory) -> dg.Definitions:
    return build_definitions(MachineSettings(data_root=tmp_path_factory.mktemp("root")), pipeline=PIPELINE)


def describe(definitions: dg.Definitions) -> str:
    """All asset specs as text, one block per asset."""
    blocks = []
    for spec in sorted(definitions.resolve_all_asset_specs(), key=lambda spec: spec.key.to_user_string()):
        partitions = spec.partitions_def
        lines = [
            spec.key.to_user_string(),
            f"  {spec.description}",
            f"  group {spec.group_name}, kinds {', '.join(sorted(spec.kinds))}, owners {', '.join(spec.owners)}",
            (
                f"  partitions {getattr(partitions, 'name', None) or 'none'}, code version {spec.code_version}, "
                f"stage {spec.tags.get('stage', 'none')}"
            ),
            f"  after {', '.join(sorted(dep.asset_key.to_user_string() for dep in spec.deps)) or 'nothing'}",
        ]
        blocks.append("\n".join(lines))
    names = [f"jobs {', '.join(sorted(job.name for job in definitions.jobs or []))}"]
    names += [f"sensors {', '.join(sorted(sensor.name for sensor in definitions.sensors or []))}"]
    return "\n\n".join([*blocks, "\n".join(names)]) + "\n"


def test_specs_are_those_of_the_snapshot(definitions: dg.Definitions) -> None:
    found = describe(definitions)
    if os.environ.get("MORPHSEQ_UPDATE_SNAPSHOTS") == "1":
        SNAPSHOT.write_text(found)
    assert found == SNAPSHOT.read_text(), "a change that is meant: MORPHSEQ_UPDATE_SNAPSHOTS=1 make test"


def test_pipeline_and_asset_graph_are_equal(definitions: dg.Definitions) -> None:
    graph = definitions.resolve_asset_graph()
    found = {
        key.path[-1]: {parent.path[-1] for parent in graph.get(key).parent_keys} for key in graph.get_all_asset_keys()
    }
    assert found.pop(COHORT) == {"embryo_latents_final"}
    assert found == {spec.name: set(spec.inputs) for spec in MORPHSEQ.steps}


def test_model_steps_share_the_pool_gpu_and_no_other_step_has_one(definitions: dg.Definitions) -> None:
    pools = {
        asset.key.path[-1]: asset.op.pool
        for asset in definitions.assets or []
        if isinstance(asset, dg.AssetsDefinition)
    }
    wanted = {spec.name: "gpu" if spec.pool == "gpu" else None for spec in MORPHSEQ.steps}
    assert pools == wanted | {COHORT: None}


def test_pipeline_job_leaves_the_cohort_alone(definitions: dg.Definitions) -> None:
    steps = {key.path[-1] for key in definitions.resolve_job_def(PIPELINE_JOB).asset_layer.selected_asset_keys}
    assert steps == {spec.name for spec in MORPHSEQ.steps}
    cohort = {key.path[-1] for key in definitions.resolve_job_def(COHORT_JOB).asset_layer.selected_asset_keys}
    assert cohort == {COHORT}


def environment(**exported: str) -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name not in OURS} | exported


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder to work in, with `.env` as `make install` writes it, and one experiment that nobody registered."""
    for name in ("mine", "theirs"):
        (tmp_path / name / "home").mkdir(parents=True)
        shutil.copy(TEMPLATE, tmp_path / name / "home")
        folder = tmp_path / name / "root" / "raw_image_data" / "Keyence" / f"20250520_{name}"
        folder.mkdir(parents=True)
        (folder / "a.tif").write_bytes(b"raw")
    (tmp_path / ".env").write_text(
        f'DAGSTER_HOME="${{DAGSTER_HOME:-{tmp_path}/mine/home}}"\n'
        f'MORPHSEQ_DATA_ROOT="${{MORPHSEQ_DATA_ROOT:-{tmp_path}/mine/root}}"\n'
        'MORPHSEQ_REGISTER_PARTITIONS="${MORPHSEQ_REGISTER_PARTITIONS:-1}"\n'
    )
    return tmp_path


def call(project: Path, *command: str, **exported: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *command],
        cwd=project,
        env=environment(**exported),
        capture_output=True,
        text=True,
        check=False,
    )


def materialize(project: Path, partition: str, **exported: str) -> subprocess.CompletedProcess[str]:
    options = ("--select", "raw_manifest", "--partition", partition, "-m", "morphseq_dagster.definitions")
    return call(project, "dagster", "asset", "materialize", *options, **exported)


def test_unregistered_experiment_with_a_raw_folder_is_materialized_by_dagsters_own_command(project: Path) -> None:
    done = materialize(project, "20250520_mine")
    assert done.returncode == 0, done.stderr
    assert (project / "mine/root/metadata/raw_manifests/raw_manifest_20250520_mine.json").is_file()
    with dg.DagsterInstance.from_config(str(project / "mine" / "home")) as instance:
        assert instance.get_dynamic_partitions("experiment") == ["20250520_mine"]


def test_exported_variables_win_in_dagster_and_morphseq_alike(project: Path) -> None:
    exported = {"DAGSTER_HOME": f"{project}/theirs/home", "MORPHSEQ_DATA_ROOT": f"{project}/theirs/root"}
    done = materialize(project, "20250520_theirs", **exported)
    assert done.returncode == 0, done.stderr
    said = call(project, "morphseq_dagster.cli", "status", "--format", "json", **exported)
    values = json.loads(said.stdout)
    assert values["data_root"] == f"{project}/theirs/root"
    assert values["experiments"]["20250520_theirs"]["steps"]["raw_manifest"]["finished_at"]
    said = call(project, "morphseq_dagster.cli", "status", "--format", "json")
    assert json.loads(said.stdout)["data_root"] == f"{project}/mine/root"


LOAD = "import morphseq_dagster.definitions as d; print(sorted(j.name for j in d.defs.jobs))"


def load(project: Path, **exported: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", LOAD]
    return subprocess.run(
        command, cwd=project, env=environment(**exported), capture_output=True, text=True, check=False
    )


def test_loading_registers_what_is_usable_and_nothing_else(project: Path) -> None:
    raw = project / "mine/root/raw_image_data"
    for path in ("Keyence/fish/a.tif", "YX1/20250521/notes.txt", "Keyence/_20250522/a.tif"):
        (raw / path).parent.mkdir(parents=True)
        (raw / path).touch()
    done = load(project, DAGSTER_HOME=f"{project}/mine/home")
    assert done.returncode == 0, done.stderr
    with dg.DagsterInstance.from_config(str(project / "mine" / "home")) as instance:
        assert instance.get_dynamic_partitions("experiment") == ["20250520_mine"]


def test_loading_registers_nothing_unless_it_is_told_to(project: Path) -> None:
    done = load(project, DAGSTER_HOME=f"{project}/mine/home", MORPHSEQ_REGISTER_PARTITIONS="0")
    assert done.returncode == 0, done.stderr
    with dg.DagsterInstance.from_config(str(project / "mine" / "home")) as instance:
        assert instance.get_dynamic_partitions("experiment") == []


@pytest.mark.parametrize("trouble", ["no home", "no raw folder"])
def test_failing_registration_is_told_and_does_not_break_loading(project: Path, trouble: str) -> None:
    if trouble == "no home":
        (project / ".env").unlink()
        exported = {"MORPHSEQ_REGISTER_PARTITIONS": "1", "MORPHSEQ_DATA_ROOT": f"{project}/mine/root"}
    else:
        shutil.rmtree(project / "mine/root/raw_image_data")
        (project / "mine/root/raw_image_data").touch()
        exported = {"DAGSTER_HOME": f"{project}/mine/home"}
    done = load(project, **exported)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "['bulk', 'cohort', 'materialize_stale', 'pipeline', 'report_staleness']"
    assert "experiments could not be registered while loading" in done.stderr
