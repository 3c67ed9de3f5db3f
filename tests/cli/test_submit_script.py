"""`morphseq submit-script`: what it refuses, and its scripts run by a real Slurm and as Sun Grid Engine would."""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from morphseq_dagster.engine.storage.records import Record, read_record
from morphseq_dagster.engine.workspace import Workspace
from tests.support.slurm_cluster import LocalCluster

GOOD, BAD, LAST = "20240101", "20240102", "20240103"


def record(workspace: Workspace, experiment: str) -> Record | None:
    return read_record(workspace.layout, primary=workspace.output("summary", experiment=experiment))


@pytest.fixture
def names(tmp_path: Path, add: Callable[..., Path]) -> Path:
    add(GOOD)
    add(BAD, {"A01": "fail", "A02": "fail"})
    add(LAST, {"A01": "yolk"})
    path = tmp_path / "list.txt"
    path.write_text(f"# tonight\r\n{GOOD}\r\n\r\n{BAD}   # doubtful\r\n{LAST}\r\n")
    return path


@pytest.mark.parametrize("content", ["", "\n# nothing\n\r\n"])
def test_empty_list_is_refused(say: Callable, tmp_path: Path, content: str) -> None:
    (tmp_path / "list.txt").write_text(content)
    said = say("submit-script", "list.txt", "--scheduler", "sge")
    assert (said.code, said.out) == (2, "")
    assert "an empty list" in said.err


def test_unknown_and_hostile_names_are_refused_all_at_once(say: Callable, names: Path) -> None:
    names.write_text(f"{GOOD}\n20240199\n$(id)\n../{GOOD}\n")
    said = say("submit-script", str(names), "--scheduler", "slurm")
    assert (said.code, said.out) == (2, "")
    for name in ("20240199", "$(id)", f"../{GOOD}"):
        assert name in said.err


@pytest.mark.parametrize(
    "wrong",
    [
        ["--memory", "lots"],
        ["--time", "1h"],
        ["--cpus", "0"],
        ["--gpus", "a b"],
        ["--at-once", "0"],
        ["--queue", "a;b"],
    ],
)
def test_wrong_needs_are_refused(say: Callable, names: Path, wrong: list[str]) -> None:
    said = say("submit-script", str(names), "--scheduler", "sge", *wrong)
    assert (said.code, said.out) == (2, "")
    assert "Traceback" not in said.err


def test_list_that_is_no_file_and_scheduler_that_is_none_are_refused(say: Callable, names: Path) -> None:
    assert say("submit-script", "nowhere.txt", "--scheduler", "sge").code == 2
    assert say("submit-script", str(names), "--scheduler", "pbs").code == 2
    assert say("submit-script", str(names)).code == 2


def test_data_root_that_a_script_cannot_name_is_refused(
    say: Callable, names: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "root").rename(tmp_path / "my root")
    monkeypatch.setenv("MORPHSEQ_DATA_ROOT", str(tmp_path / "my root"))
    said = say("submit-script", str(names), "--scheduler", "slurm")
    assert (said.code, said.out) == (2, "")
    assert "plain path" in said.err


def test_needs_come_from_the_settings_and_are_overruled_one_by_one(say: Callable, names: Path, tmp_path: Path) -> None:
    (tmp_path / "morphseq.toml").write_text(
        '[places.slurm]\npython = "/there/python"\ndata_root = "/there/root"\n'
        '[places.slurm.resources]\npartition = "cpu"\nmemory = "8G"\ntime = "2:00:00"\ncpus = 2\n'
    )
    said = say("submit-script", str(names), "--scheduler", "slurm", "--memory", "9G")
    assert said.code == 0, said.err
    for line in ("--partition=cpu", "--mem=9G", "--time=2:00:00", "--cpus-per-task=2"):
        assert f"#SBATCH {line}\n" in said.out
    assert "/there/python" in said.out
    assert "--output=/there/root/.morphseq/array_logs/%A_%a.log" in said.out


def test_sge_tasks_run_their_experiments_and_the_bad_one_ends_non_zero(
    say: Callable, names: Path, workspace: Workspace, tmp_path: Path
) -> None:
    said = say("submit-script", str(names), "--scheduler", "sge", "--output", "array.sh")
    assert said.code == 0, said.err
    assert "qsub array.sh" in said.err
    codes = {}
    for task in ("1", "2", "3"):
        variables = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "SGE_TASK_ID": task, "NSLOTS": "1"}
        done = subprocess.run(["bash", "array.sh"], env=variables, capture_output=True, text=True, check=False)
        codes[task] = done.returncode
        assert ("ended with code 0" in done.stdout) == (task != "2"), done.stderr
    assert codes == {"1": 0, "2": 1, "3": 0}
    assert [record(workspace, name) is not None for name in (GOOD, BAD, LAST)] == [True, False, True]
    found = record(workspace, GOOD)
    assert found is not None
    assert found.place == "process"
    assert not list((tmp_path / "home").rglob("runs*")), "no task wrote the Dagster home"
    again = subprocess.run(
        ["bash", "array.sh"],
        env={"PATH": os.environ["PATH"], "SGE_TASK_ID": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "nothing to do" in again.stdout


@pytest.mark.slurm
def test_slurm_array_runs_and_its_results_are_adopted(
    say: Callable, names: Path, workspace: Workspace, cluster: LocalCluster
) -> None:
    said = say("submit-script", str(names), "--scheduler", "slurm", "--output", "array.sh", "--memory", "900M")
    assert said.code == 0, said.err
    job = cluster.ask("sbatch", "--parsable", "array.sh").strip().partition(";")[0]
    assert job.isdigit()
    deadline = time.monotonic() + 240
    while cluster.ask("squeue", "-h", "-j", job, "-o", "%i"):
        assert time.monotonic() < deadline
        time.sleep(0.5)
    logs = {n: (workspace.layout.array_logs / f"{job}_{n}.log").read_text() for n in (1, 2, 3)}
    codes = {n: re.findall(r"ended with code (\d+)", log) for n, log in logs.items()}
    assert codes == {1: ["0"], 2: ["1"], 3: ["0"]}, logs
    shown = cluster.ask("scontrol", "show", "job", job)
    assert sorted(re.findall(r"JobState=(\w+)", shown)) == ["COMPLETED", "COMPLETED", "FAILED"]
    reconciled = say("reconcile", "--report-to-dagster")
    assert reconciled.code == 0, reconciled.out
    assert "reported 6 artifacts" in reconciled.err
    assert "no findings" in reconciled.out
