"""Preemption by a partition of higher priority: what is pushed out is known as that, and tried or started again."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from morphseq_dagster.cluster.outcome import JobOutcome
from morphseq_dagster.cluster.poller import Poller
from morphseq_dagster.cluster.retry import plan_retry
from tests.support.slurm_bench import Bench, wait_for
from tests.support.slurm_cluster import start_cluster

pytestmark = [pytest.mark.slurm, pytest.mark.slow]

CPUS = 4
CONFIGURATION = """
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
PartitionName=requeued Nodes=ALL PriorityTier=1 PreemptMode=REQUEUE DefMemPerCPU=64 State=UP
PartitionName=cancelled Nodes=ALL PriorityTier=1 PreemptMode=CANCEL DefMemPerCPU=64 State=UP
PartitionName=urgent Nodes=ALL PriorityTier=10 PreemptMode=OFF DefMemPerCPU=64 State=UP
"""


@pytest.fixture
def crowded(shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    """A cluster whose node is full with one job of ours, and that has an urgent partition."""
    script = shared / "slurm" / "local-slurm.sh"
    if not script.is_file():
        pytest.skip(f"no Slurm: {script} is not there")
    cluster = start_cluster(script, nodes="1", cpus=str(CPUS), killwait="2", minjobage="301")
    conf = Path(cluster.environment["SLURM_CONF"])
    monkeypatch.setenv("SLURM_CONF", str(conf))
    if "PreemptType=preempt/partition_prio" not in conf.read_text():
        with conf.open("a") as handle:
            handle.write(CONFIGURATION)
        for daemon in ("slurmd", "slurmctld"):
            cluster.stop(daemon)
        for daemon in ("slurmctld", "slurmd"):
            cluster.start(daemon)
    wait_for(lambda: "urgent" in cluster.ask("sinfo", "-h", "-t", "idle", "-o", "%R"))
    yield Bench(cluster, tmp_path, cluster.client(tmp_path / "jobs"))
    cluster.ask("scancel", "--user", os.environ.get("USER", "root"))
    wait_for(lambda: cluster.ask("squeue", "-h") == "")


def push_out(bench: Bench) -> str:
    """Submit a short job that needs the whole node, and is let in before ours."""
    said = bench.cluster.ask(
        "sbatch", "--parsable", "-p", "urgent", f"-c{CPUS}", "-o", "/dev/null", "--wrap", "sleep 2"
    )
    return said.strip()


def test_job_that_is_cancelled_for_a_more_urgent_one_is_preempted_and_may_be_tried_again(crowded: Bench) -> None:
    spec = crowded.spec("job", "sleep 60")
    spec = replace(spec, resources=replace(spec.resources, partition="cancelled", cpus=CPUS, memory="64M"))
    live = crowded.ensure(spec)
    crowded.until_running(live)
    push_out(crowded)
    verdict = crowded.finish(live)
    assert (verdict.outcome, verdict.state) == (JobOutcome.PREEMPTED, "PREEMPTED")
    assert plan_retry(JobOutcome.PREEMPTED, earlier=[], resources=spec.resources) == spec.resources
    assert crowded.executions("job") == 1


def test_job_that_is_put_back_into_the_queue_is_one_attempt_with_one_result(crowded: Bench) -> None:
    once = f"[ -e {crowded.root}/twice ] || {{ touch {crowded.root}/twice; sleep 60; }}"
    spec = crowded.spec("job", once)
    spec = replace(spec, resources=replace(spec.resources, partition="requeued", cpus=CPUS, memory="64M"))
    live = crowded.ensure(spec)
    poller = Poller(crowded.client)
    watch = poller.watch(live, done=crowded.done("job"))
    wait_for((crowded.root / "twice").exists)
    push_out(crowded)
    crowded.start_again(live)
    verdict = watch.wait(90)
    poller.close()
    assert verdict is not None
    assert verdict.outcome is JobOutcome.DONE
    assert (crowded.executions("job"), live.attempt.number) == (2, 1)
    assert len(crowded.client.root.attempts(spec.group, key=spec.key)) == 1
