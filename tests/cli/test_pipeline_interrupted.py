"""A command that somebody ends while it runs: its run is cancelled, nothing else begins, what is finished stands."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import dagster as dg
import pytest

from morphseq_dagster.cluster.attempt_folder import JobRoot
from morphseq_dagster.engine.storage.records import read_record
from morphseq_dagster.engine.workspace import Workspace
from tests.support.slurm_cluster import LocalCluster
from tests.support.slurm_gate import Gate

A, B, C = "20240101", "20240102", "20240103"
Begin = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def begin() -> Iterator[Begin]:
    """Starts the command, on demand as a script starts what it puts into the background: Ctrl-C is ignored."""
    children: list[subprocess.Popen[str]] = []

    def begin(*experiments: str, verb: str = "pipeline", background: bool = False) -> subprocess.Popen[str]:
        option = "--partition" if verb == "materialize" else "--experiments"
        command = [sys.executable, "-m", "morphseq_dagster.cli", verb, option, ",".join(experiments)]
        disposition = signal.SIG_IGN if background else signal.default_int_handler
        child = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=os.environ,
            preexec_fn=lambda: signal.signal(signal.SIGINT, disposition),  # noqa: PLW1509 - no threads here
        )
        children.append(child)
        return child

    yield begin
    for child in children:
        if child.poll() is None:
            child.kill()
        child.communicate()


@pytest.fixture
def gate(cluster: LocalCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Gate:
    """A cluster, where the first step runs."""
    found = Gate(cluster, tmp_path / "commands")
    monkeypatch.setenv("MORPHSEQ_PLACES", f'{{"letters": "slurm", "slurm": {found.settings().model_dump_json()}}}')
    return found


def make_slow(workspace: Workspace, experiment: str, *, seconds: float) -> None:
    recipe = workspace.layout.recipes(experiment)[1]
    recipe.parent.mkdir(exist_ok=True)
    recipe.write_text(f"[letters]\nslow_s = {seconds}\n")


def hold(workspace: Workspace, experiment: str) -> None:
    recipe = workspace.layout.recipes(experiment)[1]
    recipe.parent.mkdir(exist_ok=True)
    recipe.write_text(f'[letters]\nhold = "{go_of(workspace, experiment)}"\n')


def go_of(workspace: Workspace, experiment: str) -> Path:
    """File that a held experiment waits for."""
    return workspace.data_root.with_name(f"go_{experiment}")


def wait_for(condition: Callable[[], object], child: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 240
    while not condition():
        assert child.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.parametrize(
    "way",
    [
        (signal.SIGTERM, "pipeline", False),
        (signal.SIGINT, "pipeline", False),
        (signal.SIGINT, "materialize", False),
        (signal.SIGTERM, "pipeline", True),
    ],
    ids=["TERM", "INT", "INT to materialize", "TERM in the background"],
)
def test_ended_command_leaves_a_cancelled_run_and_begins_no_other(
    add: Callable[..., Path],
    workspace: Workspace,
    instance: dg.DagsterInstance,
    begin: Begin,
    way: tuple[signal.Signals, str, bool],
) -> None:
    sent, verb, background = way
    for name in (A, B, C):
        add(name)
    make_slow(workspace, B, seconds=600)
    child = begin(A, B, C, verb=verb, background=background)
    claim = workspace.layout.lock("letters", experiment=B)
    wait_for(claim.exists, child)
    child.send_signal(sent)
    said, _ = child.communicate(timeout=180)
    assert child.returncode == 130, said
    assert "Traceback" not in said
    assert "dagster" not in said.lower()
    assert f"{B}  letters               FAILED: interrupted" in said
    assert not claim.exists()
    last, first = instance.get_runs()
    assert (first.tags["dagster/partition"], first.status) == (A, dg.DagsterRunStatus.SUCCESS)
    assert (last.tags["dagster/partition"], last.status) == (B, dg.DagsterRunStatus.CANCELED)
    primary = workspace.output("summary", experiment=A)
    assert read_record(workspace.layout, primary=primary) is not None


def test_command_in_the_background_heeds_no_ctrl_c(
    add: Callable[..., Path], workspace: Workspace, instance: dg.DagsterInstance, begin: Begin
) -> None:
    for name in (A, B):
        add(name)
        hold(workspace, name)
    child = begin(A, B, background=True)
    for name in (A, B):
        wait_for(workspace.layout.lock("letters", experiment=name).exists, child)
        child.send_signal(signal.SIGINT)
        go_of(workspace, name).touch()
    said, _ = child.communicate(timeout=180)
    assert child.returncode == 0, said
    assert [run.status for run in instance.get_runs()] == [dg.DagsterRunStatus.SUCCESS] * 2


@pytest.mark.parametrize("background", [False, True])
def test_end_between_two_runs_begins_no_other(
    add: Callable[..., Path], workspace: Workspace, instance: dg.DagsterInstance, begin: Begin, background: bool
) -> None:
    for name in (A, B, C):
        add(name)
    make_slow(workspace, B, seconds=600)
    child = begin(A, B, C, background=background)
    assert child.stdout is not None
    for line in child.stdout:
        if line.startswith(f"{A}: 3 made in "):
            child.terminate()
    assert child.wait(timeout=180) == 130
    done = {run.tags["dagster/partition"]: run.status for run in instance.get_runs()}
    assert done.pop(A) is dg.DagsterRunStatus.SUCCESS
    # It may have begun with the next one before the signal came.
    assert done in ({}, {B: dg.DagsterRunStatus.CANCELED})


@pytest.mark.slurm
def test_kill_of_a_command_in_the_background_cancels_its_job(
    add: Callable[..., Path],
    workspace: Workspace,
    instance: dg.DagsterInstance,
    begin: Begin,
    gate: Gate,
) -> None:
    add(A)
    make_slow(workspace, A, seconds=600)
    child = begin(A, background=True)
    root = JobRoot(workspace.layout.jobs)
    wait_for(lambda: any(attempt.record("start") for _, _, attempt in root.open_attempts()), child)
    ((_, _, attempt),) = root.open_attempts()
    child.terminate()
    said, _ = child.communicate(timeout=180)
    assert child.returncode == 130, said
    assert (attempt.record("closed") or {})["kind"] == "cancelled"
    assert attempt.job not in gate.jobs()
    assert [run.status for run in instance.get_runs()] == [dg.DagsterRunStatus.CANCELED]
    assert not workspace.layout.lock("letters", experiment=A).exists()
