"""A cluster that keeps no accounts and forgets ended jobs within seconds."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from morphseq_dagster.slurm.client import Live
from morphseq_dagster.slurm.outcome import Outcome
from morphseq_dagster.testing.slurm_bench import Bench
from morphseq_dagster.testing.slurm_cluster import start_cluster

pytestmark = pytest.mark.slurm


@pytest.fixture
def forgetful(
    make_bench: Callable[[Path], Bench], shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Bench:
    script = shared / "slurm" / "local-slurm.sh"
    cluster = start_cluster(script, accounting="0", minjobage="5", killwait="2")
    monkeypatch.setenv("SLURM_CONF", cluster.environment["SLURM_CONF"])
    found = make_bench(tmp_path)
    found.cluster = cluster
    found.client = cluster.client(tmp_path / "jobs")
    return found


@pytest.mark.parametrize(
    ("body", "outcome"),
    [
        ("", Outcome.DONE),
        ("exit 7", Outcome.FAILED),
        ("kill -SEGV $$", Outcome.CRASH),
        ("kill -KILL $$", Outcome.KILLED),
        ("exit 0", Outcome.FAILED),
    ],
)
def test_ends_are_told_without_accounts(forgetful: Bench, body: str, outcome: Outcome) -> None:
    assert forgetful.run(forgetful.spec("job", body)).outcome is outcome
    assert forgetful.client.scheduler.has_accounting is not True


def test_ends_that_nobody_watched_are_told_after_the_controller_forgot_them(forgetful: Bench) -> None:
    bodies = {"good": "", "bad": "exit 7", "ended": "sleep 60"}
    lives = {name: forgetful.ensure(forgetful.spec(name, body)) for name, body in bodies.items()}
    forgetful.until_running(lives["ended"])
    forgetful.cluster.ask("scancel", lives["ended"].job)
    deadline = time.monotonic() + 90
    while forgetful.cluster.ask("squeue", "-h", "-t", "all", "-o", "%i").split():
        assert time.monotonic() < deadline
        time.sleep(0.5)
    ends = {name: forgetful.finish(live).outcome for name, live in lives.items()}
    assert ends == {"good": Outcome.DONE, "bad": Outcome.FAILED, "ended": Outcome.CANCELLED}


def test_lost_answer_is_found_without_accounts(forgetful: Bench) -> None:
    spec = forgetful.spec("job", "sleep 1")
    live = forgetful.ensure(spec)
    assert isinstance(live, Live)
    live.attempt.path("job.json").unlink()
    again = forgetful.ensure(spec)
    assert isinstance(again, Live)
    assert again.job == live.job
    assert forgetful.finish(again).outcome is Outcome.DONE
    assert forgetful.executions("job") == 1
