"""Clusters that forget ended jobs within seconds, with accounts and without: each end is told all the same."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from morphseq_dagster.cluster.errors import RejectedError
from morphseq_dagster.cluster.job_handle import JobHandle
from morphseq_dagster.cluster.outcome import JobOutcome
from morphseq_dagster.cluster.poller import Poller
from morphseq_dagster.settings.job_values import Resources
from tests.support.slurm_bench import Bench, wait_for
from tests.support.slurm_cluster import LocalCluster, start_cluster
from tests.support.slurm_ends import Ending, begin_ends, begin_time_limits

pytestmark = pytest.mark.slurm

# Of these neither files nor log tell anything: where nobody watched and nobody keeps accounts, nobody can know.
UNTOLD = ("no folder", "scancel pending")


def start_forgetful(shared: Path, *, accounting: bool) -> LocalCluster:
    script = shared / "slurm" / "local-slurm.sh"
    if not script.is_file():
        pytest.skip(f"no Slurm: {script} is not there")
    flag = "1" if accounting else "0"
    return start_cluster(script, accounting=flag, minjobage="5", killwait="2", cpus="16", overmemorykill="1")


@pytest.fixture(scope="module")
def clusters(shared: Path) -> dict[bool, LocalCluster]:
    return {accounting: start_forgetful(shared, accounting=accounting) for accounting in (False, True)}


@pytest.fixture(scope="module")
def unwatched(
    clusters: dict[bool, LocalCluster], tmp_path_factory: pytest.TempPathFactory
) -> dict[bool, tuple[Bench, dict[str, Ending]]]:
    """Jobs of which each has ended, or will within a minute, while the other tests run; nobody watches them."""
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        for accounting, cluster in clusters.items():
            patch.setenv("SLURM_CONF", cluster.environment["SLURM_CONF"])
            root = tmp_path_factory.mktemp("unwatched")
            bench = Bench(cluster, root, cluster.client(root / "jobs"))
            found[accounting] = (bench, begin_time_limits(bench) | begin_ends(bench))
    return found


@pytest.fixture
def forgetful(
    unwatched: object, clusters: dict[bool, LocalCluster], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Bench:
    """Bench on the cluster without accounts."""
    del unwatched
    cluster = clusters[False]
    monkeypatch.setenv("SLURM_CONF", cluster.environment["SLURM_CONF"])
    return Bench(cluster, tmp_path, cluster.client(tmp_path / "jobs"))


def watch_all(bench: Bench, ends: Mapping[str, Ending]) -> dict[str, JobOutcome]:
    """Watch all jobs to their verdicts."""
    poller = Poller(bench.client)
    watches = {name: poller.watch(e.live, done=bench.done(e.live.spec.group[1])) for name, e in ends.items()}
    found = {}
    for name, watch in watches.items():
        verdict = watch.wait(300)
        assert verdict is not None, name
        found[name] = verdict.outcome
    poller.close()
    return found


def test_each_end_is_told_without_accounts(forgetful: Bench) -> None:
    ends = begin_ends(forgetful)
    assert watch_all(forgetful, {name: end for name, end in ends.items() if name not in UNTOLD}) == {
        name: end.outcome for name, end in ends.items() if name not in UNTOLD
    }
    assert forgetful.client.scheduler.has_accounting is not True
    for end in ends.values():
        assert forgetful.executions(end.live.spec.group[1]) <= 1


def test_ends_before_anything_ran_are_told_without_accounts_while_the_controller_knows_them(forgetful: Bench) -> None:
    whole = Resources(cpus=16, exclude="n1", memory="64M", time="5")
    first = forgetful.ensure(forgetful.spec("first", "sleep 280", resources=whole))
    forgetful.until_running(first)
    live = forgetful.ensure(forgetful.spec("job", resources=whole))
    assert isinstance(live, JobHandle)
    poller = Poller(forgetful.client)
    watch = poller.watch(live, done=forgetful.done("job"))
    forgetful.cluster.ask("scancel", live.job)
    verdict = watch.wait(180)
    poller.close()
    assert isinstance(first, JobHandle)
    forgetful.cluster.ask("scancel", first.job)
    assert verdict is not None
    assert verdict.outcome is JobOutcome.CANCELLED
    assert forgetful.executions("job") == 0


@pytest.mark.parametrize(
    "change",
    [Resources(partition="nowhere"), Resources(memory="900G"), Resources(gpus="9"), Resources(constraint="purple")],
    ids=["partition", "memory", "gpus", "constraint"],
)
def test_request_that_cannot_be_met_is_rejected_without_accounts(forgetful: Bench, change: Resources) -> None:
    with pytest.raises(RejectedError, match="sbatch: error"):
        forgetful.ensure(replace(forgetful.spec("job"), resources=change))


def test_job_started_again_by_the_scheduler_is_one_attempt_without_accounts(forgetful: Bench) -> None:
    body = f"[ -e {forgetful.root}/twice ] || {{ touch {forgetful.root}/twice; sleep 60; }}"
    live = forgetful.ensure(forgetful.spec("job", body))
    assert isinstance(live, JobHandle)
    poller = Poller(forgetful.client)
    watch = poller.watch(live, done=forgetful.done("job"))
    wait_for((forgetful.root / "twice").exists)
    forgetful.cluster.ask("scontrol", "requeue", live.job)
    forgetful.start_again(live)
    verdict = watch.wait(180)
    poller.close()
    assert verdict is not None
    assert verdict.outcome is JobOutcome.DONE
    assert forgetful.executions("job") == 2


def test_lost_answer_is_found_without_accounts(forgetful: Bench) -> None:
    spec = forgetful.spec("job", "sleep 1")
    live = forgetful.ensure(spec)
    assert isinstance(live, JobHandle)
    live.attempt.path("job.json").unlink()
    again = forgetful.ensure(spec)
    assert isinstance(again, JobHandle)
    assert again.job == live.job
    assert forgetful.finish(again).outcome is JobOutcome.DONE
    assert forgetful.executions("job") == 1


@pytest.mark.parametrize("accounting", [False, True], ids=["no accounts", "accounts"])
def test_each_end_that_nobody_watched_is_told_after_the_controller_forgot_it(
    unwatched: dict[bool, tuple[Bench, dict[str, Ending]]], accounting: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench, ends = unwatched[accounting]
    monkeypatch.setenv("SLURM_CONF", bench.cluster.environment["SLURM_CONF"])
    jobs = ",".join(end.live.job for end in ends.values())
    wait_for(
        lambda: bench.cluster.ask("squeue", "-h", "-t", "all", "-j", jobs, "-o", "%i").split() == [], timeout_s=400
    )
    wanted = {name: end.outcome for name, end in ends.items()}
    if not accounting:
        wanted |= dict.fromkeys(UNTOLD, JobOutcome.LOST)
    assert watch_all(bench, ends) == wanted
    assert (bench.client.scheduler.has_accounting is True) is accounting
    for name, end in ends.items():
        assert bench.executions(end.live.spec.group[1]) == (name not in UNTOLD), name
