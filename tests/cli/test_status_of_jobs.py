"""`morphseq status` of steps at the cluster: from files alone, whatever the cluster says."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from morphseq_dagster.cluster.connection import connect
from morphseq_dagster.cluster.job_handle import JobHandle
from morphseq_dagster.cluster.request_job import RequestJob
from morphseq_dagster.engine.locked_step import lock_step
from morphseq_dagster.engine.workspace import Workspace
from morphseq_dagster.testing.chain import TOY
from tests.support.slurm_cluster import start_cluster
from tests.support.slurm_gate import Gate

EXPERIMENT = "20240418"


@pytest.mark.slurm
def test_waiting_and_running_jobs_are_shown_from_files(
    *,
    workspace: Workspace,
    say: Callable[..., Any],
    add: Callable[..., Any],
    shared: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cluster = start_cluster(shared / "slurm" / "local-slurm.sh", cpus="16", killwait="2", overmemorykill="1")
    monkeypatch.setenv("SLURM_CONF", cluster.environment["SLURM_CONF"])
    (tmp_path / "commands").mkdir()
    gate = Gate(cluster, tmp_path / "commands")
    add(EXPERIMENT)
    recipe = workspace.layout.recipes(EXPERIMENT)[1]
    recipe.parent.mkdir(exist_ok=True)
    recipe.write_text("[letters]\nslow_s = 280\n")
    settings, spec = gate.settings(), workspace.pipeline.steps[0]
    client = connect(settings, data_root=workspace.data_root)[0]

    def read() -> dict[str, Any]:
        said = say("status", "--format", "json")
        found: dict[str, Any] = json.loads(said.out)["experiments"][EXPERIMENT]["steps"]["letters"]
        return found

    gate.close()
    try:
        with lock_step(spec, workspace=workspace, experiment=EXPERIMENT, run_id="r") as session:
            live = RequestJob(settings, pipeline=TOY, request=session.request).ensure()
        assert isinstance(live, JobHandle)
        assert (read()["state"], read()["job"]) == ("queued", live.job)
        deadline = time.monotonic() + 240
        while "PENDING (PartitionDown)" not in read()["reason"]:
            client.observe([live])
            assert time.monotonic() < deadline
    finally:
        gate.open()
    gate.switch("mute", on=True)
    while read()["state"] != "running":
        assert time.monotonic() < deadline
    assert "on n" in read()["reason"]
    said = say("status")
    assert "at the cluster, as their files show (1):" in said.out
    assert f"{EXPERIMENT} letters: job {live.job}: on n" in said.out
    client.cancel([live.attempt])
