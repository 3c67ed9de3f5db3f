"""`morphseq pipeline` over many experiments with steps at the cluster: one run, the same words and exit codes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from morphseq_dagster.partitions import BULK_JOB
from morphseq_dagster.slurm.folder import Attempt, JobRoot
from morphseq_dagster.steps.workspace import Workspace
from morphseq_dagster.testing.relay import RELAY
from morphseq_dagster.testing.slurm_cluster import LocalCluster, start_cluster

NAMES = [f"202404{day:02d}" for day in range(1, 10)]


@pytest.fixture
def many(workspace: Workspace, add: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Nine experiments of the relay registry whose first step runs at the cluster; the second refuses one of them."""
    monkeypatch.setenv("MORPHSEQ_REGISTRY", RELAY)
    for name in NAMES:
        add(name, {"A01": "fail" if name == NAMES[4] else f"word{name}"})
    text = '[places]\nfirst = "slurm"\n[places.slurm.resources]\nmemory = "200M"\ntime = 5\n'
    (workspace.data_root.parent / "morphseq.toml").write_text(text)
    return NAMES


@pytest.fixture
def cluster(shared: Path, monkeypatch: pytest.MonkeyPatch) -> LocalCluster:
    found = start_cluster(shared / "slurm" / "local-slurm.sh", cpus="16", killwait="2", overmemorykill="1")
    monkeypatch.setenv("SLURM_CONF", found.environment["SLURM_CONF"])
    return found


def attempts_of(workspace: Workspace) -> list[Attempt]:
    root = JobRoot(workspace.layout.jobs)
    keys = sorted(workspace.layout.jobs.glob("*/*/*"))
    return [attempt for key in keys for attempt in root.attempts(key.parts[-3:-1], key=key.name)]


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
    assert again.out.count("nothing to do") == 8
    assert len(attempts_of(workspace)) == 9, "the failed step is not at the cluster"


@pytest.mark.slurm
@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_ended_command_cancels_its_jobs_and_its_run(
    many: list[str],
    workspace: Workspace,
    instance: dg.DagsterInstance,
    cluster: LocalCluster,
    sent: signal.Signals,
) -> None:
    for name in many:
        recipe = workspace.layout.recipes(name)[1]
        recipe.parent.mkdir(exist_ok=True)
        recipe.write_text("[first]\nslow_s = 60\n")
    code = "import sys; from morphseq_dagster.cli import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, "pipeline", "--experiments", ",".join(many)]
    child = subprocess.Popen(command, env=os.environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    deadline = time.monotonic() + 60
    while sum(attempt.record("start") is not None for attempt in attempts_of(workspace)) < 9:
        assert child.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.1)
    child.send_signal(sent)
    said, _ = child.communicate(timeout=60)
    assert child.returncode != 0, said
    assert {(attempt.record("closed") or {})["kind"] for attempt in attempts_of(workspace)} == {"cancelled"}
    left = cluster.ask("squeue", "-h", "-o", "%i").split()
    assert not {attempt.job for attempt in attempts_of(workspace)} & set(left)
    (run,) = instance.get_runs()
    assert run.status in (dg.DagsterRunStatus.CANCELED, dg.DagsterRunStatus.FAILURE), said
