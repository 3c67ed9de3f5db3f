"""Raw to final at the cluster through each entrance: Dagster's command line, the web page, ours; for one and for many.

The bytes must be those of the process place. Launches over several experiments are one run (`places.ways`).
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import dagster as dg
import pytest

from morphseq_dagster.cluster.attempt_folder import Attempt, JobRoot
from morphseq_dagster.engine.layout import Layout
from morphseq_dagster.partitions import BULK_JOB
from morphseq_dagster.settings.machine import PlacesSettings
from tests.support.experiments import (
    FRAMES_EXPERIMENT,
    REGISTRY_NAME,
    STEPS,
    make_small_frames,
    open_data_root,
    read_artifacts,
    run_experiment,
)
from tests.support.installation import Installation, shipped_settings
from tests.support.slurm_cluster import LocalCluster

pytestmark = pytest.mark.slurm
PROJECT = Path(__file__).resolve().parents[2]
TEMPLATE = PROJECT / "morphseq_dagster" / "templates" / "dagster.yaml"
FEW = ("ff_images", "sam2_tracks", "embryo_latents_final")
HEAVY = ("ff_images", "gdino_raw", "sam2_tracks", "qc_masks", "snips", "latents")
MANY = tuple(f"202505{day:02d}_ctrl" for day in range(1, 21))


def run_command(
    folder: Path,
    *command: str,
    cluster: LocalCluster,
    steps: Iterable[str],
    register: bool = False,
    chain: bool = False,
) -> subprocess.CompletedProcess[str]:
    """Run a command line on the data root `root` of a folder, with these steps at the cluster."""
    (folder / "home").mkdir()
    shutil.copy(TEMPLATE, folder / "home")
    # With two processors wells go to workers of their own, started by a process that was forked.
    more = {"chain": True, "resources": {"memory": "2G", "time": 10, "cpus": 2}} if chain else {}
    slurm = cluster.settings(**more)
    places = PlacesSettings.model_validate({**dict.fromkeys(steps, "slurm"), "slurm": slurm})
    environment = dict(
        os.environ,
        DAGSTER_HOME=str(folder / "home"),
        MORPHSEQ_DATA_ROOT=str(folder / "root"),
        MORPHSEQ_PLACES=places.model_dump_json(),
        MORPHSEQ_REGISTER_PARTITIONS=str(int(register)),
    )
    return subprocess.run(
        [sys.executable, "-m", *command], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


def materialize(folder: Path, *, cluster: LocalCluster, steps: Iterable[str]) -> subprocess.CompletedProcess[str]:
    module = ("-m", "morphseq_dagster.definitions")
    asked = ("dagster", "asset", "materialize", "--select", "*", "--partition", FRAMES_EXPERIMENT, *module)
    return run_command(folder, *asked, cluster=cluster, steps=steps, register=True)


def attempts_of(data_root: Path, experiment: str) -> list[Attempt]:
    root = JobRoot(Layout(data_root).jobs)
    keys = sorted(root.root.glob(f"*/{experiment}/*"))
    return [attempt for key in keys for attempt in root.attempts(key.parts[-3:-1], key=key.name)]


def check_one(data_root: Path, *, steps: Iterable[str], expected: Path) -> None:
    """One job per step that belongs to the cluster, and what the process place makes."""
    attempts = attempts_of(data_root, FRAMES_EXPERIMENT)
    assert sorted(attempt.folder.parts[-4] for attempt in attempts) == sorted(steps)
    assert {(attempt.record("closed") or {})["kind"] for attempt in attempts} == {"done"}
    made = read_artifacts(open_data_root(data_root), FRAMES_EXPERIMENT)
    assert made == read_artifacts(open_data_root(expected), FRAMES_EXPERIMENT)


def test_dagsters_command_line_with_some_steps_at_the_cluster(
    tmp_path: Path, cluster: LocalCluster, finished_frames: Path
) -> None:
    make_small_frames(tmp_path / "root")
    done = materialize(tmp_path, cluster=cluster, steps=FEW)
    assert done.returncode == 0, done.stderr[-5000:]
    check_one(tmp_path / "root", steps=FEW, expected=finished_frames)


@pytest.mark.slow
def test_dagsters_command_line(tmp_path: Path, cluster: LocalCluster, finished_frames: Path) -> None:
    make_small_frames(tmp_path / "root")
    done = materialize(tmp_path, cluster=cluster, steps=STEPS)
    assert done.returncode == 0, done.stderr[-5000:]
    check_one(tmp_path / "root", steps=STEPS, expected=finished_frames)


@pytest.mark.slow
def test_web_page(tmp_path: Path, cluster: LocalCluster, finished_frames: Path) -> None:
    places = PlacesSettings.model_validate({"slurm": cluster.settings()})
    live = Installation(tmp_path / "live", shipped_settings(), places, place="slurm", pipeline=REGISTRY_NAME)
    make_small_frames(live.data_root)
    live.start()
    try:
        live.register(FRAMES_EXPERIMENT)
        run = live.launch(FRAMES_EXPERIMENT)
        assert live.await_ends(run, seconds=400) == ["SUCCESS"]
        made = [event["stepKey"] for event in live.events(run, kind="MaterializationEvent")]
        assert sorted(made) == sorted(STEPS)
    finally:
        live.stop(kill=True)
    check_one(live.data_root, steps=STEPS, expected=finished_frames)


@pytest.mark.slow
def test_own_command_line(tmp_path: Path, cluster: LocalCluster, finished_frames: Path) -> None:
    make_small_frames(tmp_path / "root")
    asked = ("morphseq_dagster.cli", "pipeline", "--experiments", FRAMES_EXPERIMENT)
    done = run_command(tmp_path, *asked, cluster=cluster, steps=STEPS)
    assert done.returncode == 0, done.stderr[-5000:]
    check_one(tmp_path / "root", steps=STEPS, expected=finished_frames)


def test_own_command_line_with_all_steps_in_one_job(
    tmp_path: Path, cluster: LocalCluster, finished_frames: Path
) -> None:
    make_small_frames(tmp_path / "root")
    asked = ("morphseq_dagster.cli", "pipeline", "--experiments", FRAMES_EXPERIMENT)
    done = run_command(tmp_path, *asked, cluster=cluster, steps=STEPS, chain=True)
    assert done.returncode == 0, done.stderr[-5000:]
    check_one(tmp_path / "root", steps=STEPS, expected=finished_frames)
    assert len({attempt.job for attempt in attempts_of(tmp_path / "root", FRAMES_EXPERIMENT)}) == 1
    with dg.DagsterInstance.from_config(str(tmp_path / "home")) as instance:
        for step in STEPS:
            (event,) = instance.fetch_materializations(dg.AssetKey(step), limit=5).records
            assert event.asset_materialization is not None
            assert "job/job" in event.asset_materialization.metadata, step


@pytest.mark.slow
def test_twenty_experiments_at_once(tmp_path: Path, cluster: LocalCluster) -> None:
    for name in MANY:
        make_small_frames(tmp_path / "root", experiment=name)
    expected = open_data_root(tmp_path / "expected")
    shutil.copytree(tmp_path / "root", expected.data_root)
    asked = ("morphseq_dagster.cli", "pipeline", "--experiments", ",".join(MANY))
    done = run_command(tmp_path, *asked, cluster=cluster, steps=HEAVY)
    assert done.returncode == 0, done.stderr[-5000:]
    workspace = open_data_root(tmp_path / "root")
    with dg.DagsterInstance.from_config(str(tmp_path / "home")) as instance:
        (run,) = instance.get_runs()
        assert (run.job_name, run.status) == (BULK_JOB, dg.DagsterRunStatus.SUCCESS)
        assert instance.get_materialized_partitions(dg.AssetKey("embryo_latents_final")) == set(MANY)
    for name in MANY:
        assert workspace.output("embryo_latents_final", experiment=name).is_file()
        kinds = [(attempt.record("closed") or {})["kind"] for attempt in attempts_of(tmp_path / "root", name)]
        assert kinds == ["done"] * len(HEAVY)
        run_experiment(expected, name)
        assert read_artifacts(workspace, name) == read_artifacts(expected, name)
    # Equal pictures, equal masks, whoever computed beside.
    first, *others = (masks_of(tmp_path / "root", name) for name in MANY)
    assert first
    assert all(masks == first for masks in others)


def masks_of(data_root: Path, experiment: str) -> dict[str, bytes]:
    """Content of the exported masks by their names without the experiment's."""
    (folder,) = Layout(data_root).folders("exported_masks", experiment=experiment)
    return {path.name.replace(experiment, ""): path.read_bytes() for path in folder.rglob("*.png")}
