"""`morphseq pipeline` over many experiments with steps at the cluster: one run, the same words and exit codes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from morphseq_dagster.cluster.attempt_folder import Attempt, JobRoot
from morphseq_dagster.engine.workspace import Workspace
from morphseq_dagster.partitions import BULK_JOB
from morphseq_dagster.testing.relay import RELAY
from tests.support.slurm_cluster import LocalCluster
from tests.support.slurm_gate import Gate

NAMES = [f"202404{day:02d}" for day in range(1, 10)]


@pytest.fixture
def many(workspace: Workspace, add: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Nine experiments of the relay pipeline whose first step runs at the cluster; the second refuses one of them."""
    monkeypatch.setenv("MORPHSEQ_PIPELINE", RELAY)
    for name in NAMES:
        add(name, {"A01": "fail" if name == NAMES[4] else f"word{name}"})
    # The code may be edited while tests run; what a job must find is not what they are about.
    text = '[places]\nfirst = "slurm"\n[places.slurm]\nenvironment = "any"\n'
    text += '[places.slurm.resources]\nmemory = "200M"\ntime = 5\n'
    (workspace.data_root.parent / "morphseq.toml").write_text(text)
    return NAMES


def attempts_of(workspace: Workspace) -> list[Attempt]:
    root = JobRoot(workspace.layout.jobs)
    keys = sorted(workspace.layout.jobs.glob("*/*/*"))
    return [attempt for key in keys for attempt in root.attempts(key.parts[-3:-1], key=key.name)]


def set_recipe(workspace: Workspace, names: list[str], line: str) -> None:
    for name in names:
        recipe = workspace.layout.recipes(name)[1]
        recipe.parent.mkdir(exist_ok=True)
        recipe.write_text(f"[first]\n{line}\n")


def start_pipeline(names: list[str], *, log: Path) -> tuple[subprocess.Popen[bytes], Path]:
    command = [sys.executable, "-m", "morphseq_dagster.cli", "pipeline", "--experiments", ",".join(names)]
    with log.open("wb") as handle:
        return subprocess.Popen(command, env=os.environ, stdout=handle, stderr=subprocess.STDOUT), log


def lines_with(said: Path, words: str) -> list[str]:
    return [line for line in said.read_text().splitlines() if words in line]


def started(workspace: Workspace) -> int:
    return sum(attempt.record("start") is not None for attempt in attempts_of(workspace))


def wait_for(condition: Callable[[], object], child: subprocess.Popen[bytes], said: Path) -> None:
    deadline = time.monotonic() + 240
    while not condition():
        assert child.poll() is None, said.read_text()
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_dry_run_says_which_way_will_be_taken(many: list[str], say: Callable[..., Any]) -> None:
    said = say("pipeline", "--experiments", ",".join(many), "--dry-run")
    assert said.out.splitlines()[-1].endswith("one run over all")
    said = say("pipeline", "--experiments", ",".join(many[:8]), "--dry-run")
    assert said.out.splitlines()[-1].endswith("one run each"), "eight are not many"


def test_many_experiments_of_this_machine_run_one_by_one(
    many: list[str], workspace: Workspace, say: Callable[..., Any]
) -> None:
    (workspace.data_root.parent / "morphseq.toml").unlink()
    said = say("pipeline", "--experiments", ",".join(many), "--dry-run")
    assert said.out.splitlines()[-1].endswith("one run each")


@pytest.mark.slurm
def test_one_run_over_all_tells_of_each(
    many: list[str], workspace: Workspace, say: Callable[..., Any], instance: dg.DagsterInstance, cluster: LocalCluster
) -> None:
    said = say("pipeline", "--experiments", ",".join(many))
    assert said.code == 1
    lines = said.err.splitlines()
    assert "one run over 9 experiments" in lines
    assert sum(line.startswith(f"{many[0]}: 3 made in ") for line in lines) == 1, said.err
    assert sum(line.startswith(f"{many[4]}: 1 made, 1 failed, 1 not tried in ") for line in lines) == 1
    (failed,) = [line for line in lines if "FAILED" in line]
    assert failed.split()[:2] == [many[4], "second"]
    assert "found fail" in failed
    (run,) = instance.get_runs()
    assert (run.job_name, run.status) == (BULK_JOB, dg.DagsterRunStatus.FAILURE)
    assert set(instance.get_dynamic_partitions("experiment")) == set(many)
    assert len(attempts_of(workspace)) == 9

    again = say("pipeline", "--experiments", ",".join(many))
    assert again.code == 1
    assert "20240401, 20240402, 20240403, 20240404, 20240406 and 3 more: nothing to do" in again.out
    assert len(attempts_of(workspace)) == 9, "the failed step is not at the cluster"


@pytest.mark.slurm
def test_launch_of_what_is_stale_goes_the_same_way(
    many: list[str], workspace: Workspace, say: Callable[..., Any], instance: dg.DagsterInstance, cluster: LocalCluster
) -> None:
    assert say("stale").out.splitlines()[-1].endswith(", one run over all")
    said = say("stale", "--launch")
    assert said.code == 1
    lines = said.err.splitlines()
    assert "one run over 9 experiments" in lines
    assert sum(": 3 made in " in line for line in lines) == 8
    assert sum(line.startswith(f"{many[4]}: 1 made, 1 failed, 1 not tried in ") for line in lines) == 1
    (run,) = instance.get_runs()
    assert (run.job_name, run.status) == (BULK_JOB, dg.DagsterRunStatus.FAILURE)
    again = say("stale", "--launch")
    assert "nothing to launch" in again.out, "the failed step is left to you"
    assert len(attempts_of(workspace)) == 9


@pytest.mark.slurm
def test_silence_of_the_cluster_is_waited_out_and_nothing_is_submitted_twice(
    many: list[str], workspace: Workspace, cluster: LocalCluster, tmp_path: Path
) -> None:
    gate = Gate(cluster, tmp_path / "commands")
    settings = workspace.data_root.parent / "morphseq.toml"
    text = settings.read_text().replace("[places]\n", '[places]\nsecond = "slurm"\n')
    more = f'[places.slurm]\ngrace_s = 3\nlost_s = 10\ncommands = "{gate.folder}"\n'
    settings.write_text(text.replace("[places.slurm]\n", more))
    set_recipe(workspace, many, f'hold = "{tmp_path}/go"')
    child, said = start_pipeline(many, log=tmp_path / "said.txt")
    wait_for(lambda: started(workspace) == 9, child, said)
    gate.switch("cut", on=True)
    wait_for(lambda: "no contact with the cluster, waiting" in said.read_text(), child, said)
    # All jobs end while nobody answers: their results are taken in, what follows cannot be submitted.
    (tmp_path / "go").touch()
    wait_for(lambda: len(lines_with(said, "  first ")) == 9, child, said)
    before = len(gate.asked())
    wait_for(lambda: len(gate.asked()) >= before + 2, child, said)
    assert not lines_with(said, "the cluster answers again")
    assert len(gate.calls("sbatch")) == 9
    gate.switch("cut", on=False)
    assert child.wait(timeout=300) == 1, said.read_text()
    assert len(lines_with(said, "no contact with the cluster, waiting")) == 1
    assert len(lines_with(said, "the cluster answers again")) == 1
    assert len(lines_with(said, ": 3 made in ")) == 8
    assert len(gate.calls("sbatch")) == 18
    kinds = Counter((attempt.record("closed") or {})["kind"] for attempt in attempts_of(workspace) if attempt.job)
    assert kinds == {"done": 17, "failed": 1}


@pytest.mark.slurm
@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_ended_command_cancels_its_jobs_and_its_run(
    many: list[str],
    workspace: Workspace,
    instance: dg.DagsterInstance,
    cluster: LocalCluster,
    sent: signal.Signals,
) -> None:
    set_recipe(workspace, many, "slow_s = 200")
    child, said = start_pipeline(many, log=workspace.data_root.parent / "said.txt")
    wait_for(lambda: started(workspace) == 9, child, said)
    child.send_signal(sent)
    assert child.wait(timeout=180) == 130, said.read_text()
    assert {(attempt.record("closed") or {})["kind"] for attempt in attempts_of(workspace)} == {"cancelled"}
    left = cluster.ask("squeue", "-h", "-o", "%i").split()
    assert not {attempt.job for attempt in attempts_of(workspace)} & set(left)
    (run,) = instance.get_runs()
    assert run.status is dg.DagsterRunStatus.CANCELED, said.read_text()
