"""`morphseq materialize` with steps at the cluster, and `morphseq jobs`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from morphseq_dagster.slurm.folder import JobRoot
from morphseq_dagster.steps.workspace import Workspace
from morphseq_dagster.testing.slurm_cluster import start_cluster

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
    assert "as the cluster said" in said.out


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
