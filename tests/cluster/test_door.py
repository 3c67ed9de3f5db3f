"""The cluster behind its door: a local run, up to the last status, imports no module of the cluster."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import morphseq_dagster
from morphseq_dagster.engine.layout import Layout
from morphseq_dagster.morphseq.paths import raw_folder
from morphseq_dagster.testing.chain import TOY, open_toy, write_words
from tests.support.experiments import FRAMES_EXPERIMENT, REGISTRY_NAME, make_small_frames

EXPERIMENT = "20240101"
TEMPLATE = Path(morphseq_dagster.__file__).parent / "templates" / "dagster.yaml"
# What a person does on one machine, in one process: arguments are an experiment and the verbs of the command line.
PROGRAM = """
import os, sys
from morphseq_dagster.cli import main
for verb in sys.argv[2:]:
    code = main(verb.split())
    assert code == 0, (verb, code)
import dagster as dg
from morphseq_dagster.build import build_definitions
from morphseq_dagster.settings.machine import load_settings
definitions = build_definitions(load_settings(), pipeline=os.environ["MORPHSEQ_PIPELINE"])
repository = definitions.get_repository_def()
resources = dict(definitions.resources)
with dg.DagsterInstance.get() as instance:
    job = repository.get_job("pipeline")
    assert job.execute_in_process(instance=instance, partition_key=sys.argv[1]).success
    for sensor in repository.sensor_defs:
        with dg.build_sensor_context(instance, repository_def=repository, resources=resources) as context:
            sensor.evaluate_tick(context)
found = sorted(name for name in sys.modules if name.startswith("morphseq_dagster.cluster"))
print("imported:", ", ".join(found))
"""


def add_toy(data_root: Path) -> Layout:
    """Data root with one experiment of the toy pipeline."""
    layout = open_toy(data_root).layout
    folder = raw_folder(layout, "Keyence", experiment=EXPERIMENT)
    folder.mkdir(parents=True)
    for name in ("a.tif", "acquisition_complete"):
        (folder / name).touch()
    write_words(layout, EXPERIMENT, words={"A01": "fish", "A02": "egg"})
    return layout


def run_alone(tmp_path: Path, *, pipeline: str, experiment: str) -> str:
    """Do all of it in a fresh interpreter; the modules of the cluster that it imported, separated by commas."""
    (tmp_path / "home").mkdir()
    shutil.copy(TEMPLATE, tmp_path / "home")
    environment = dict(
        os.environ,
        DAGSTER_HOME=str(tmp_path / "home"),
        MORPHSEQ_DATA_ROOT=str(tmp_path / "root"),
        MORPHSEQ_PIPELINE=pipeline,
        MORPHSEQ_PLACE="process",
    )
    verbs = [f"pipeline --experiments {experiment}", "status", "stale", f"explain {experiment}", "reconcile"]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, experiment, *verbs],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.rpartition("imported:")[2].strip()


def test_local_run_of_a_toy_imports_nothing_of_the_cluster(tmp_path: Path) -> None:
    add_toy(tmp_path / "root")
    assert run_alone(tmp_path, pipeline=TOY, experiment=EXPERIMENT) == ""


def test_local_run_of_morphseq_imports_nothing_of_the_cluster(tmp_path: Path) -> None:
    make_small_frames(tmp_path / "root")
    assert run_alone(tmp_path, pipeline=REGISTRY_NAME, experiment=FRAMES_EXPERIMENT) == ""


def test_jobs_below_the_data_root_open_the_door(tmp_path: Path) -> None:
    """The check itself sees what is imported: where jobs may be at work, their files are read."""
    add_toy(tmp_path / "root").jobs.mkdir(parents=True)
    assert "morphseq_dagster.cluster.open_jobs" in run_alone(tmp_path, pipeline=TOY, experiment=EXPERIMENT)
