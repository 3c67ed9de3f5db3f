"""Daemons away at a step of the protocol: lost contact is waiting, then one execution and the right end."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from morphseq_dagster.cluster.attempt_folder import JobRoot
from morphseq_dagster.cluster.client import Client
from morphseq_dagster.cluster.commands import Scheduler
from morphseq_dagster.cluster.errors import UnreachableError
from morphseq_dagster.cluster.job import JobSpec
from morphseq_dagster.cluster.job_handle import AlreadyDone, JobHandle, JobVerdict
from morphseq_dagster.cluster.outcome import JobOutcome
from morphseq_dagster.cluster.poller import Poller
from morphseq_dagster.cluster.transports.local import LocalTransport
from morphseq_dagster.cluster.transports.protocol import Transport
from tests.support.slurm_bench import Bench, wait_for
from tests.support.slurm_cluster import QUICK, LocalCluster
from tests.support.slurm_faults import Interrupted, Outage

pytestmark = pytest.mark.slurm
DAEMONS = ("slurmctld", "slurmdbd", "sshd")
STEPS = ("submit", "answer", "find", "watch", "run", "end", "cancel")


@dataclass(frozen=True)
class Case:
    """Who is away, from which step on, for how long."""

    daemon: str
    step: str
    away_s: float


# Each daemon at the steps at which it matters most; the rest of the sweep, and 20 s of absence, are slow.
SHORT = [("slurmctld", "answer"), ("slurmctld", "cancel"), ("slurmdbd", "find"), ("sshd", "answer"), ("sshd", "run")]
CASES = [pytest.param(Case(d, s, 3.0), id=f"{d} {s}") for d, s in SHORT]
CASES += [pytest.param(Case(d, s, 20.0), id=f"{d} {s} 20s", marks=pytest.mark.slow) for d in DAEMONS for s in STEPS]


@pytest.fixture
def way(cluster: LocalCluster, request: pytest.FixtureRequest) -> Iterator[Transport]:
    """Over the network where the login node is to go away, on it otherwise."""
    found = cluster.ssh() if request.node.callspec.params["case"].daemon == "sshd" else LocalTransport()
    yield found
    found.close()


def insist(act: Callable[[], object]) -> object:
    """Do something again and again until somebody answers."""
    found: list[object] = []

    def answered() -> bool:
        try:
            found.append(act())
        except UnreachableError:
            return False
        return True

    wait_for(answered, timeout_s=300)
    return found[0]


@pytest.mark.parametrize("case", CASES)
def test_daemon_away_at_a_step(cluster: LocalCluster, way: Transport, tmp_path: Path, case: Case) -> None:
    step, outage = case.step, Outage(cluster, case.daemon, case.away_s)
    # A dead controller makes commands hang for 16 s, which is theirs to show and not ours to wait for. A login node
    # that is away is known at once, and a first login may take seconds.
    patience_s = 30 if case.daemon == "sshd" else 3
    scheduler = Scheduler(_interrupt(way, step=step, outage=outage), timeout_s=patience_s)
    client = Client(scheduler, root=JobRoot(tmp_path / "jobs"), timeouts=QUICK)
    bench = Bench(cluster, tmp_path, client)
    hold = f"while [ ! -e {tmp_path}/go ]; do sleep 0.1; done"
    good, bad = bench.spec("good", hold), bench.spec("bad", f"{hold}; exit 3")
    try:
        lives = [_live(insist(lambda spec=spec: bench.ensure(spec))) for spec in (good, bad)]
        if step == "cancel":
            _cancel(bench, lives)
            assert outage.begun
            return
        ends = _watch(bench, lives, outage=outage, step=step)
        assert outage.begun, f"{case.daemon} was there all the time"
    finally:
        (tmp_path / "go").touch()
        outage.end()
    assert {name: verdict.outcome for name, verdict in ends.items()} == {
        "good": JobOutcome.DONE,
        "bad": JobOutcome.FAILED,
    }
    assert bench.flaws([good]) == []
    assert bench.executions("bad") == 1
    attempts = bench.client.root.attempts(bad.group, key=bad.key)
    assert max(bench.rows_of(attempt.token) for attempt in attempts) <= 1
    # A second attempt only where the first submission never got through; whether that of the other did is chance.
    assert _count(bench, good) == (2 if step in ("submit", "find") else 1)
    assert _count(bench, bad) <= 2


def _interrupt(way: Transport, *, step: str, outage: Outage) -> Transport:
    """Let the daemon go away where the step begins; steps that are no command are the test's own to time."""
    if step == "submit":
        return Interrupted(way, "sbatch", outage.begin, when="instead")
    if step == "answer":
        return Interrupted(way, "sbatch", outage.begin, when="after")
    if step == "find":
        # The submission was lost on its way; the daemon goes away once accounting is asked for it.
        return Interrupted(Interrupted(way, "sbatch", lambda: None, when="instead"), "sacct", outage.begin)
    if step == "watch":
        return Interrupted(way, "squeue", outage.begin)
    return Interrupted(way, "scancel", outage.begin) if step == "cancel" else way


def _watch(bench: Bench, lives: list[JobHandle], *, outage: Outage, step: str) -> dict[str, JobVerdict]:
    """Watch both jobs to their ends, and let the daemon go away while they run, or before they end, if it is to."""
    poller = Poller(bench.client, ask_s=(0.5, 2.0))
    watches = {live.spec.group[1]: poller.watch(live, done=bench.done(live.spec.group[1])) for live in lives}
    for live in lives:
        bench.until_running(live)
    if step in ("run", "end"):
        outage.begin()
    if step != "end":
        # What runs on goes on running, whoever is away.
        outage.end()
    (bench.root / "go").touch()
    ends = {}
    for name, watch in watches.items():
        verdict = watch.wait(300)
        assert verdict is not None, name
        ends[name] = verdict
    poller.close()
    return ends


def _cancel(bench: Bench, lives: list[JobHandle]) -> None:
    """Cancel both jobs, again and again until somebody answers; neither leaves a result."""
    for live in lives:
        bench.until_running(live)
    attempts = [live.attempt for live in lives]
    insist(lambda: bench.client.cancel(attempts))
    insist(lambda: bench.client.await_cancelled(attempts))
    assert [(attempt.record("closed") or {})["kind"] for attempt in attempts] == ["cancelled", "cancelled"]
    assert not {live.job for live in lives} & set(bench.queued())
    assert [bench.executions(live.spec.group[1]) for live in lives] == [1, 1]


def _count(bench: Bench, spec: JobSpec) -> int:
    return len(bench.client.root.attempts(spec.group, key=spec.key))


def _live(found: object) -> JobHandle:
    assert isinstance(found, JobHandle), found
    assert not isinstance(found, AlreadyDone)
    return found


def test_login_node_goes_away_while_it_submits(cluster: LocalCluster, tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    for name in ("squeue", "sacct", "scancel"):
        (tmp_path / "bin" / name).symlink_to(f"/usr/bin/{name}")
    slow = tmp_path / "bin" / "sbatch"
    hang = f"until [ -e {tmp_path}/go ]; do sleep 0.1; done"
    slow.write_text(f'#!/bin/sh\n/usr/bin/sbatch "$@"\ntouch {tmp_path}/submitted\n{hang}\n')
    slow.chmod(0o755)
    way = cluster.ssh()
    client = Client(Scheduler(way, folder=str(tmp_path / "bin")), root=JobRoot(tmp_path / "jobs"), timeouts=QUICK)
    bench = Bench(cluster, tmp_path, client)
    spec = bench.spec("job", f"while [ ! -e {tmp_path}/go ]; do sleep 0.1; done")
    outage = Outage(cluster, "sshd", 2.0)
    ending = threading.Thread(target=lambda: (wait_for((tmp_path / "submitted").exists), outage.begin()))
    ending.start()
    try:
        with pytest.raises(UnreachableError):
            bench.ensure(spec)
    finally:
        ending.join()
        outage.end()
    live = _live(insist(lambda: bench.ensure(spec)))
    assert live.adopted
    (tmp_path / "go").touch()
    assert bench.finish(live).outcome is JobOutcome.DONE
    assert bench.flaws([spec]) == []
    assert client.scheduler.calls["sbatch"] == 1
    way.close()
