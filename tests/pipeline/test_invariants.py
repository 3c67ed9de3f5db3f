"""What holds for every run: one experiment per file, and equal bytes at once, elsewhere and under another path."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from morphseq_dagster.engine.workspace import Workspace
from morphseq_dagster.morphseq import PIPELINE
from morphseq_dagster.morphseq.paths import raw_folder
from morphseq_dagster.resources.executors import make_executor
from tests.support.experiments import (
    FRAMES_EXPERIMENT,
    FRAMES_WELLS,
    KEYENCE_EXPERIMENT,
    REGISTRY_NAME,
    STEPS,
    make_small_frames,
    make_tiny_keyence,
    open_data_root,
    read_artifacts,
    run_experiment,
)

PREFIX, LONGER = "20250529_ctrl", "20250529_ctrl_extras"


@pytest.fixture
def workspace(frames_root: Path) -> Workspace:
    return open_data_root(frames_root)


def make_pair(data_root: Path) -> Workspace:
    """Two experiments of which one's name begins like the other's; they differ in their pictures."""
    make_small_frames(data_root, experiment=PREFIX)
    make_small_frames(data_root, experiment=LONGER, wells=FRAMES_WELLS[:2], seed=7)
    return open_data_root(data_root)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    workspace = make_pair(tmp_path_factory.mktemp("pair") / "root")
    for experiment in (PREFIX, LONGER):
        run_experiment(workspace, experiment)
    return workspace


# one experiment per file


def test_no_file_of_an_experiment_speaks_of_another(pair: Workspace) -> None:
    """Every id in a file that begins with either name is the file's own experiment's."""
    names = re.compile(rb"20250529_ctrl(?:_extras)?(?![0-9a-z])")
    for experiment in (PREFIX, LONGER):
        artifacts = read_artifacts(pair, experiment)
        assert len(artifacts) > 40
        for path, data in artifacts.items():
            if path.endswith((".csv", ".json")):
                spoken_of = {name.decode() for name in names.findall(data)}
                assert spoken_of == {experiment}, path


def test_tables_hold_rows_of_their_own_experiment_alone(pair: Workspace) -> None:
    for experiment, embryos in ((PREFIX, 2), (LONGER, 2)):
        for step in ("sam2_metadata", "embryo_metadata", "qc_staged", "embryo_latents_final"):
            table = pd.read_csv(pair.output(step, experiment=experiment), dtype=str)
            assert set(table["experiment_id"]) == {experiment}
            assert {video.rpartition("_")[0] for video in table["video_id"]} == {experiment}
            assert table["embryo_id"].nunique() == embryos


def test_every_per_experiment_file_carries_the_experiment_in_its_path(pair: Workspace) -> None:
    for experiment in (PREFIX, LONGER):
        assert all(experiment in path for path in read_artifacts(pair, experiment))
    assert not set(read_artifacts(pair, PREFIX)) & set(read_artifacts(pair, LONGER))


# equal bytes


def spawn(data_root: Path, experiment: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "morphseq_dagster.testing.chain", str(data_root), experiment]
    return subprocess.Popen([*command, "--pipeline", REGISTRY_NAME], stderr=subprocess.PIPE, text=True)


def test_two_experiments_at_once_give_the_bytes_of_one_after_the_other(pair: Workspace, tmp_path: Path) -> None:
    workspace = make_pair(tmp_path / "root")
    children = [spawn(workspace.data_root, experiment) for experiment in (PREFIX, LONGER)]
    told = [child.communicate()[1] for child in children]
    assert [child.returncode for child in children] == [0, 0], told
    for experiment in (PREFIX, LONGER):
        assert read_artifacts(workspace, experiment) == read_artifacts(pair, experiment)


def test_one_experiment_run_twice_at_once_is_computed_once(tmp_path: Path, finished_frames: Path) -> None:
    data_root = tmp_path / "root"
    make_small_frames(data_root)
    children = [spawn(data_root, FRAMES_EXPERIMENT) for _ in range(2)]
    told = [child.communicate()[1] for child in children]
    assert [child.returncode for child in children] == [0, 0], told
    workspace = open_data_root(data_root)
    first = read_artifacts(open_data_root(finished_frames), FRAMES_EXPERIMENT)
    assert read_artifacts(workspace, FRAMES_EXPERIMENT) == first
    pids = {record.pid for record in run_experiment(workspace, FRAMES_EXPERIMENT).records.values()}
    assert pids <= {child.pid for child in children}


def test_process_and_subprocess_give_the_same_bytes(tmp_path: Path, finished_frames: Path) -> None:
    data_root = tmp_path / "root"
    make_small_frames(data_root)
    workspace = open_data_root(data_root)
    # Half of the steps there, half here: either place finds what the other published.
    elsewhere, here = (
        make_executor(name, pipeline=PIPELINE, data_root=data_root) for name in ("subprocess", "process")
    )
    for number, step in enumerate(STEPS):
        run_experiment(workspace, FRAMES_EXPERIMENT, until=step, place=elsewhere if number % 2 else here)
    first = read_artifacts(open_data_root(finished_frames), FRAMES_EXPERIMENT)
    assert read_artifacts(workspace, FRAMES_EXPERIMENT) == first
    places = {record.place for record in run_experiment(workspace, FRAMES_EXPERIMENT).records.values()}
    assert places == {"process", "subprocess"}


def test_another_path_of_the_data_root_gives_the_same_bytes_and_keys(tmp_path: Path, finished_frames: Path) -> None:
    data_root = tmp_path / "quite" / "another place" / "root"
    make_small_frames(data_root)
    other = run_experiment(open_data_root(data_root), FRAMES_EXPERIMENT)
    one = run_experiment(open_data_root(finished_frames), FRAMES_EXPERIMENT)
    assert other.computed == STEPS
    first = read_artifacts(open_data_root(finished_frames), FRAMES_EXPERIMENT)
    assert read_artifacts(open_data_root(data_root), FRAMES_EXPERIMENT) == first
    # The raw manifest's request names the times of the files, and it alone.
    keys = {
        step: (one.records[step].request_key, other.records[step].request_key)
        for step in STEPS
        if step != "raw_manifest"
    }
    assert {step for step, (a, b) in keys.items() if a != b} == set()
    assert str(data_root).encode() not in b"".join(
        read_artifacts(open_data_root(data_root), FRAMES_EXPERIMENT).values()
    )


def test_degraded_experiment_gives_the_same_bytes_at_another_path(tmp_path: Path) -> None:
    found = []
    for place in ("one", "another/longer/path"):
        workspace = open_data_root(tmp_path / place)
        make_small_frames(workspace.data_root)
        raw = raw_folder(workspace.layout, "Frames", experiment=FRAMES_EXPERIMENT)
        (raw / "A02_t0001.png").write_bytes((raw / "A02_t0001.png").read_bytes()[:2000])
        (raw / "A01_t0002.png").write_bytes(b"")
        run = run_experiment(workspace, FRAMES_EXPERIMENT)
        assert run.records["ff_images"].status == "degraded"
        keys = {well: state.key for well, state in run.records["ff_images"].wells.items()}
        found.append((read_artifacts(workspace, FRAMES_EXPERIMENT), keys))
    assert found[0] == found[1]


def test_forced_run_gives_the_same_bytes(workspace: Workspace) -> None:
    before = read_artifacts(workspace, FRAMES_EXPERIMENT)
    run = run_experiment(workspace, FRAMES_EXPERIMENT, force=True)
    assert run.computed == STEPS
    assert run.wells_computed()["ff_images"] == 3
    assert read_artifacts(workspace, FRAMES_EXPERIMENT) == before


def test_documents_carry_no_time(pair: Workspace) -> None:
    """Keys that upstream fills with times are there and null."""

    def walk(value: object, key: str = "") -> None:
        if isinstance(value, dict):
            for name, inner in value.items():
                walk(inner, str(name))
        elif isinstance(value, list):
            for inner in value:
                walk(inner, key)
        elif "timestamp" in key or key in ("creation_time", "last_updated", "first_processed_time"):
            assert value is None, key

    for path, data in read_artifacts(pair, PREFIX).items():
        if path.endswith(".json"):
            walk(json.loads(data))


def test_number_of_threads_changes_no_byte(tmp_path: Path) -> None:
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OPENCV_FOR_THREADS_NUM")
    children = []
    for threads in ("1", "4"):
        make_tiny_keyence(tmp_path / threads)
        command = [sys.executable, "-m", "morphseq_dagster.testing.chain", str(tmp_path / threads), KEYENCE_EXPERIMENT]
        environment = os.environ | dict.fromkeys(names, threads)
        children.append(subprocess.Popen([*command, "--pipeline", REGISTRY_NAME], env=environment))
    assert [child.wait() for child in children] == [0, 0]
    one, four = (read_artifacts(open_data_root(tmp_path / threads), KEYENCE_EXPERIMENT) for threads in ("1", "4"))
    assert len(one) > 20
    assert one == four
