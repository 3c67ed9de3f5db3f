"""`morphseq materialize` with steps at the cluster, and `morphseq jobs`."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from morphseq_dagster.cluster.attempt_folder import Attempt, JobRoot
from morphseq_dagster.cluster.job_handle import JobHandle
from morphseq_dagster.cluster.request_job import RequestJob
from morphseq_dagster.engine.locked_step import lock_step
from morphseq_dagster.engine.workspace import Workspace
from morphseq_dagster.settings.machine import load_settings
from morphseq_dagster.testing.chain import TOY
from tests.support.slurm_cluster import start_cluster

EXPERIMENT = "20240418"


def write_settings(workspace: Workspace) -> None:
    text = 'place = "slurm"\n[places.slurm]\n[places.slurm.resources]\nmemory = "500M"\ntime = 5\n'
    (workspace.data_root.parent / "morphseq.toml").write_text(text)


def leave_attempt(workspace: Workspace) -> None:
    """What a killed wait leaves."""
    root = JobRoot(workspace.layout.jobs)
    attempt = root.attempt(("letters", EXPERIMENT), key="ab" * 32, number=1)
    root.begin(attempt)
    attempt.write("job", job="999999")
    attempt.write("start", job="999999", node="n7", restart=0)


@dg.job
def nothing() -> None:
    pass


def leave_job(workspace: Workspace, experiment: str, *, run_id: str, slow_s: float) -> Attempt:
    """Submit a job that nobody waits for."""
    recipe = workspace.layout.recipes(experiment)[1]
    recipe.parent.mkdir(exist_ok=True)
    recipe.write_text(f"[letters]\nslow_s = {slow_s}\n")
    settings = load_settings().places.slurm
    assert settings is not None
    spec = workspace.pipeline.steps[0]
    with lock_step(spec, workspace=workspace, experiment=experiment, run_id=run_id) as session:
        found = RequestJob(settings, pipeline=TOY, request=session.request).ensure()
    assert isinstance(found, JobHandle)
    return found.attempt


def test_without_jobs(workspace: Workspace, say: Callable[..., Any]) -> None:
    del workspace
    said = say("jobs")
    assert (said.code, said.out) == (0, "no jobs\n")


def test_job_is_shown_also_when_no_cluster_can_be_asked(workspace: Workspace, say: Callable[..., Any]) -> None:
    leave_attempt(workspace)
    said = say("jobs")
    assert said.code == 1
    line = next(line for line in said.out.splitlines() if "letters" in line)
    assert line.split()[:5] == ["letters", EXPERIMENT, "999999", "1", "started"]
    assert "n7" in line
    assert "places.slurm" in said.out


@pytest.mark.slurm
def test_run_at_the_cluster_from_the_command_line(
    workspace: Workspace,
    say: Callable[..., Any],
    add: Callable[..., Any],
    shared: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cluster = start_cluster(shared / "slurm" / "local-slurm.sh", cpus="16", killwait="2", overmemorykill="1")
    monkeypatch.setenv("SLURM_CONF", cluster.environment["SLURM_CONF"])
    add(EXPERIMENT)
    write_settings(workspace)
    said = say("materialize", "--partition", EXPERIMENT)
    assert said.code == 0, said.err
    assert "3 made" in said.err
    assert say("jobs").out == "no jobs\n"
    leave_attempt(workspace)
    said = say("jobs")
    assert said.code == 0, "the cluster was asked, and does not know the job"
    assert "the cluster answered" in said.out


@pytest.mark.slurm
def test_materialisation_tells_of_the_job(
    workspace: Workspace,
    say: Callable[..., Any],
    add: Callable[..., Any],
    shared: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cluster = start_cluster(shared / "slurm" / "local-slurm.sh", cpus="16", killwait="2", overmemorykill="1")
    monkeypatch.setenv("SLURM_CONF", cluster.environment["SLURM_CONF"])
    add(EXPERIMENT)
    write_settings(workspace)
    assert say("materialize", "--partition", EXPERIMENT, "--select", "letters").code == 0
    with dg.DagsterInstance.get() as instance:
        event = instance.get_latest_materialization_event(dg.AssetKey("letters"))
    assert event is not None
    assert event.asset_materialization is not None
    metadata = {name: value.value for name, value in event.asset_materialization.metadata.items()}
    assert str(metadata["job/job"]).isdigit()
    assert metadata["job/outcome"] == "done"
    assert metadata["job/node"] in ("n1", "n2")
    assert {"job/queue_s", "job/run_s", "job/cpu_efficiency", "job/max_rss_mb", "job/log"} <= metadata.keys()


def test_reconcile_without_a_cluster_is_refused(workspace: Workspace, say: Callable[..., Any]) -> None:
    leave_attempt(workspace)
    assert say("jobs", "--reconcile").code == 2


@pytest.mark.slurm
def test_reconcile_does_what_the_list_announced(
    workspace: Workspace,
    say: Callable[..., Any],
    add: Callable[..., Any],
    shared: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cluster = start_cluster(shared / "slurm" / "local-slurm.sh", cpus="16", killwait="2", overmemorykill="1")
    monkeypatch.setenv("SLURM_CONF", cluster.environment["SLURM_CONF"])
    write_settings(workspace)
    text = (workspace.data_root.parent / "morphseq.toml").read_text()
    (workspace.data_root.parent / "morphseq.toml").write_text(
        text.replace("[places.slurm]", '[places.slurm]\nenvironment = "any"')
    )
    states = {
        "20240401": dg.DagsterRunStatus.CANCELED,
        "20240402": dg.DagsterRunStatus.FAILURE,
        "20240403": dg.DagsterRunStatus.FAILURE,
        "20240404": dg.DagsterRunStatus.STARTED,
    }
    attempts: dict[str, Attempt] = {}
    with dg.DagsterInstance.get() as instance:
        for experiment, status in states.items():
            add(experiment)
            run = instance.create_run_for_job(nothing, status=status)
            slow_s = 0 if experiment == "20240403" else 200
            attempts[experiment] = leave_job(workspace, experiment, run_id=run.run_id, slow_s=slow_s)
    deadline = time.monotonic() + 150
    while attempts["20240403"].record("end") is None:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    plan = say("jobs").out
    lines = {experiment: [x for x in plan.splitlines() if x.startswith(experiment)] for experiment in states}
    assert [len(found) for found in lines.values()] == [1, 1, 1, 0], "the run of the last one is there"
    assert f"job {attempts['20240401'].job}: " in lines["20240401"][0]
    assert "would be cancelled" in lines["20240401"][0]
    assert "stays at work" in lines["20240402"][0]
    assert "would be closed as done" in lines["20240403"][0]
    assert not any(attempt.is_closed for attempt in attempts.values())

    said = say("jobs", "--reconcile")
    assert said.code == 0, said.err
    assert "reported 1 artifacts to Dagster" in said.out
    kinds = {e: (attempt.record("closed") or {}).get("kind") for e, attempt in attempts.items()}
    assert kinds == {"20240401": "cancelled", "20240402": None, "20240403": "done", "20240404": None}
    with dg.DagsterInstance.get() as instance:
        event = instance.get_latest_materialization_event(dg.AssetKey("letters"))
    assert event is not None
    assert event.asset_materialization is not None
    assert event.asset_materialization.partition == "20240403"
    assert event.run_id == "", "a materialisation without a run"
    for experiment in ("20240402", "20240404"):
        cluster.ask("scancel", attempts[experiment].job or "")
