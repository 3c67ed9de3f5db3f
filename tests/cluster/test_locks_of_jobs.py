"""Claims that name a job's attempt, on a real scheduler: a holder on another host, alive, suspended or gone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from morphseq_dagster.cluster.attempt_folder import Attempt, JobRoot
from morphseq_dagster.cluster.executor import SlurmExecutor
from morphseq_dagster.cluster.open_jobs import BesideJobs
from morphseq_dagster.engine.executors.local import LocalExecutor
from morphseq_dagster.engine.executors.protocol import Executor
from morphseq_dagster.engine.locked_step import finish, lock_step
from morphseq_dagster.engine.storage.atomic_io import host_name
from morphseq_dagster.engine.storage.records import Record
from morphseq_dagster.engine.storage.step_locks import SILENT_S, StepLock, read_lock
from morphseq_dagster.engine.workspace import Workspace
from morphseq_dagster.errors import TransientError
from morphseq_dagster.settings.slurm import SlurmSettings
from morphseq_dagster.testing.relay import RELAY, RELAY_PIPELINE, word_file
from tests.support.slurm_bench import touching, wait_for
from tests.support.slurm_cluster import LocalCluster

EXP = "20240418"

# A process of another host, by its own word, that runs the first step at the cluster.
CHILD = """
import socket, sys
socket.gethostname = lambda: "elsewhere"
from pathlib import Path
from morphseq_dagster.engine.locked_step import finish, lock_step
from morphseq_dagster.cluster.executor import SlurmExecutor
from morphseq_dagster.settings.slurm import SlurmSettings
from morphseq_dagster.engine.workspace import Workspace
from morphseq_dagster.testing.relay import RELAY, RELAY_PIPELINE
workspace = Workspace(Path(sys.argv[1]), RELAY_PIPELINE)
place = SlurmExecutor(SlurmSettings.model_validate_json(sys.argv[2]), pipeline=RELAY)
spec = workspace.pipeline.steps[0]
with lock_step(spec, workspace=workspace, experiment=sys.argv[3], executor=place, run_id="far") as session:
    assert session.cached is None
    print(finish(workspace.layout, outcome=session.run()).run_id)
"""


@pytest.fixture
def relay(tmp_path: Path) -> Workspace:
    workspace = Workspace(tmp_path / "root", RELAY_PIPELINE)
    word_file(workspace.layout, EXP).parent.mkdir(parents=True)
    word_file(workspace.layout, EXP).write_text("word\n")
    return workspace


@pytest.fixture
def place(slurm: SlurmSettings) -> Executor:
    return SlurmExecutor(slurm, pipeline=RELAY)


def slow(workspace: Workspace, seconds: float) -> None:
    set_recipe(workspace, f"slow_s = {seconds}")


def hold(workspace: Workspace) -> Path:
    """Let the step's job be at work until the file is there that this returns."""
    go = workspace.data_root.with_name("go")
    set_recipe(workspace, f'hold = "{go}"')
    return go


def set_recipe(workspace: Workspace, line: str) -> None:
    recipe = workspace.layout.recipes(EXP)[1]
    recipe.parent.mkdir(exist_ok=True)
    recipe.write_text(f"[first]\n{line}\n")


def claim_path(workspace: Workspace) -> Path:
    return workspace.layout.lock("first", experiment=EXP)


def silence(workspace: Workspace) -> None:
    """Let the holder's last sign of life be longer ago than is waited for."""
    last = time.time() - SILENT_S - 5
    os.utime(claim_path(workspace), (last, last))


def attempts_of(workspace: Workspace) -> list[Attempt]:
    root = JobRoot(workspace.layout.jobs)
    folders = sorted(workspace.layout.jobs.glob(f"first/{EXP}/*"))
    return [attempt for folder in folders for attempt in root.attempts(("first", EXP), key=folder.name)]


def kinds(workspace: Workspace) -> list[str | None]:
    return [(attempt.record("closed") or {}).get("kind") for attempt in attempts_of(workspace)]


def run_first(workspace: Workspace, place: Executor, **more: Callable[[StepLock], None]) -> Record | None:
    """Run the first step, unless nothing changed."""
    spec = workspace.pipeline.steps[0]
    with lock_step(spec, workspace=workspace, experiment=EXP, run_id="near", executor=place, **more) as session:
        if session.cached is not None:
            return None
        return finish(workspace.layout, outcome=session.run())


@pytest.fixture
def start_far(
    cluster: LocalCluster, slurm: SlurmSettings, relay: Workspace
) -> Iterator[Callable[[], subprocess.Popen[bytes]]]:
    """Starts a wait on another host and gives it when its job is at work; what is left of it is ended."""
    started: list[subprocess.Popen[bytes]] = []

    def start() -> subprocess.Popen[bytes]:
        command = [sys.executable, "-c", CHILD, str(relay.data_root), slurm.model_dump_json(), EXP]
        child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        started.append(child)
        wait_for(lambda: any(a.record("start") is not None and a.job for a in attempts_of(relay)))
        return child

    yield start
    for child in started:
        child.kill()
        child.communicate()
    for attempt in attempts_of(relay):
        cluster.ask("scancel", attempt.job or "0")


@pytest.mark.slurm
def test_claim_of_a_step_at_the_cluster_names_the_attempt(relay: Workspace, start_far: Callable[[], object]) -> None:
    slow(relay, 280)
    start_far()
    claim = read_lock(claim_path(relay))
    assert claim is not None
    (attempt,) = attempts_of(relay)
    assert (claim.host, relay.layout.absolute(claim.attempt)) == ("elsewhere", attempt.folder)


@pytest.mark.slurm
def test_living_wait_on_another_host_is_waited_for(
    relay: Workspace, place: Executor, start_far: Callable[[], subprocess.Popen[bytes]]
) -> None:
    go = hold(relay)
    child = start_far()
    met: list[StepLock] = []

    def meet(claim: StepLock) -> None:
        met.append(claim)
        go.touch()

    assert run_first(relay, place, on_wait=meet) is None, "its result is there"
    assert [claim.host for claim in met] == ["elsewhere"]
    assert child.communicate(timeout=180)[0] == b"far\n"
    assert kinds(relay) == ["done"]


@pytest.mark.slurm
def test_job_of_a_killed_wait_on_another_host_is_taken_over(
    relay: Workspace, place: Executor, start_far: Callable[[], subprocess.Popen[bytes]]
) -> None:
    go = hold(relay)
    child = start_far()
    child.kill()
    child.wait()
    silence(relay)
    with pytest.raises(TransientError, match="cluster job at work"):
        run_first(relay, BesideJobs(LocalExecutor(RELAY_PIPELINE)))
    assert read_lock(claim_path(relay)) is None, "refused, it holds nothing"
    (attempt,) = attempts_of(relay)
    with touching(go, when=lambda: attempt.record("adopted") is not None):
        record = run_first(relay, place)
    assert record is not None
    assert (record.run_id, kinds(relay)) == ("far", ["done"])


@pytest.mark.slurm
def test_two_who_wait_for_one_job_both_end_well(
    relay: Workspace, place: Executor, cluster: LocalCluster, start_far: Callable[[], subprocess.Popen[bytes]]
) -> None:
    go = hold(relay)
    child = start_far()
    child.send_signal(signal.SIGSTOP)
    silence(relay)
    near: list[Record | None] = []
    thread = threading.Thread(target=lambda: near.append(run_first(relay, place)))
    thread.start()
    wait_for(lambda: (claim := read_lock(claim_path(relay))) is not None and claim.host == host_name())
    (attempt,) = attempts_of(relay)
    wait_for(lambda: attempt.record("adopted") is not None)
    child.send_signal(signal.SIGCONT)
    go.touch()
    out, err = child.communicate(timeout=180)
    thread.join(180)
    assert (child.returncode, out) == (0, b"far\n"), err.decode()
    assert [record is not None and record.run_id for record in near] == ["far"]
    assert kinds(relay) == ["done"]
    assert read_lock(claim_path(relay)) is None
    assert attempts_of(relay) == [attempt]
    names = cluster.ask("squeue", "-h", "-t", "all", "-O", "Name:64", "--name", attempt.token).split()
    assert names == [attempt.token], "one job"


@pytest.mark.slurm
def test_whoever_takes_over_for_another_request_cancels_the_old_job_first(
    relay: Workspace, place: Executor, start_far: Callable[[], subprocess.Popen[bytes]]
) -> None:
    slow(relay, 280)
    child = start_far()
    child.send_signal(signal.SIGSTOP)
    silence(relay)
    slow(relay, 0)
    record = run_first(relay, place)
    assert record is not None
    assert record.run_id == "near"
    assert sorted(map(str, kinds(relay))) == ["cancelled", "done"]
    child.send_signal(signal.SIGCONT)
    _, err = child.communicate(timeout=180)
    assert child.returncode != 0
    assert b"cancelled" in err
    assert run_first(relay, place) is None, "the new result stands"
