"""Pilot jobs on a real scheduler: one allocation for many requests, each with its own claim, records and verdict."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from morphseq_dagster.cluster.attempt_folder import JobRoot
from morphseq_dagster.cluster.job import JobSpec
from morphseq_dagster.cluster.job_handle import JobHandle
from morphseq_dagster.cluster.outcome import JobOutcome
from morphseq_dagster.cluster.pilot.job import PilotTask, resources_of_pilot, submit_pilot
from morphseq_dagster.cluster.poller import Poller
from morphseq_dagster.settings.job_values import Resources
from morphseq_dagster.testing.sequel import SEQUEL, key_of
from tests.support.pilot_bench import (
    SMALL,
    begun,
    executions,
    finish,
    kinds,
    pilot_of,
    pilots_of,
    small,
    tasks,
    verdict,
    watched,
)
from tests.support.slurm_bench import Bench, wait_for
from tests.support.slurm_cluster import LocalCluster


@pytest.fixture
def local(cluster: LocalCluster, tmp_path: Path) -> Iterator[Bench]:
    found = Bench(cluster, tmp_path, cluster.client(tmp_path / "jobs"))
    wait_for(lambda: not found.queued(), timeout_s=400)  # what others have left behind
    yield found
    wait_for(lambda: not found.queued())


# without a scheduler


def test_a_pilot_job_asks_for_all_that_work_at_once_and_time_for_all_rounds() -> None:
    one = Resources(cpus=2, memory="3G", time="10", partition="cpu")
    assert resources_of_pilot(one, tasks=60, workers=8) == Resources(
        cpus=16, memory="24G", time="24", partition="cpu"
    ), "10 minutes for any one, and twice a minute for 7 more rounds"
    assert resources_of_pilot(one, tasks=8, workers=8).time == "10"
    assert resources_of_pilot(one, tasks=60, workers=8, time_limit="1:00:00").time == "1:00:00"
    assert resources_of_pilot(one, tasks=1, workers=1, links=3).time == "30", "each link of a chain has its whole time"
    assert resources_of_pilot(Resources(), tasks=60, workers=8) == Resources(cpus=8), "nobody set a limit"


def test_tasks_know_their_pilot_job_and_their_names_there(tmp_path: Path) -> None:
    root = JobRoot(tmp_path / "jobs", there="/cluster/jobs")
    task = root.attempt(("step", "exp"), key="a" * 64, number=3)
    pilot = root.attempt(("_packs",), key="b" * 32, number=1)
    for attempt in (task, pilot):
        assert root.begin(attempt)
    assert (task.pilot, task.name) == (None, task.token)
    task.write("intent", t=0, pack=pilot.token)
    pilot.write_tasks([task])
    assert (task.pilot, task.name, pilot.tasks()) == (pilot, pilot.token, [task])
    assert task.job is None
    pilot.write("job", job="17")
    assert task.job == "17"


def test_the_verdict_on_the_last_task_closes_the_pilot_job(tmp_path: Path) -> None:
    root = JobRoot(tmp_path / "jobs")
    pilot = root.attempt(("_packs",), key="b" * 32, number=1)
    found = [root.attempt(("step", f"e{number}"), key="a" * 64, number=1) for number in range(2)]
    for attempt in (pilot, *found):
        root.begin(attempt)
    pilot.write_tasks(found)
    for attempt in found:
        attempt.write("intent", t=0, pack=pilot.token)
    found[1].close(kind="done")
    assert not pilot.is_closed
    found[0].close(kind="failed")
    assert pilot.is_closed


# at the cluster


@pytest.mark.slurm
def test_sixty_requests_are_one_submission_and_run_once_each(local: Bench) -> None:
    specs = small(local, 60)
    lives = pilot_of(local, specs, workers=8)
    assert set(kinds(finish(local, lives))) == {JobOutcome.DONE}
    assert executions(local, specs) == {1}
    assert local.client.scheduler.calls["sbatch"] == 1
    (pilot,) = pilots_of(local)
    assert pilot.is_closed
    wait_for(lambda: not local.queued())
    wait_for(lambda: local.rows_of(pilot.token) == 1)  # the row trails the end
    assert sum(local.rows_of(live.attempt.token) for live in lives[:3]) == 0, "tasks have no job of their own"
    assert {live.attempt.job for live in lives} == {pilot.job}
    assert list(local.client.root.open_attempts()) == []


@pytest.mark.slurm
def test_what_fails_or_is_killed_in_a_pilot_job_is_known_while_the_others_go_on(local: Bench) -> None:
    gate = local.root / "open"
    specs = [
        *small(local, 2, f"until [ -e {gate} ]; do sleep 0.1; done"),
        local.spec("fails", "exit 7", resources=SMALL),
        local.spec("killed", "kill -9 $$", resources=SMALL),
    ]
    lives = pilot_of(local, specs, workers=4)
    with watched(local, lives) as watches:
        wait_for(lambda: all(watch.ended.is_set() for watch in watches[2:]))
        assert [verdict(watch).outcome for watch in watches[2:]] == [JobOutcome.FAILED, JobOutcome.KILLED]
        assert not any(watch.ended.is_set() for watch in watches[:2])
        assert "exit code 7" in verdict(watches[2]).reason
        gate.touch()
        wait_for(lambda: all(watch.ended.is_set() for watch in watches))
        assert kinds([verdict(watch) for watch in watches[:2]]) == [JobOutcome.DONE, JobOutcome.DONE]
    assert executions(local, specs) == {1}


@pytest.mark.slurm
def test_killed_job_of_a_pilot_job_loses_what_was_in_hand_and_leaves_the_rest_to_be_tried_again(local: Bench) -> None:
    """A task kills the process that all are forked of, as the kernel may for want of memory."""
    both = f"until [ -e {local.root}/m001.ran ] && [ -e {local.root}/m002.ran ]; do sleep 0.1; done"
    specs = [
        *small(local, 3, "sleep 280", first=f"{both}; kill -9 $PPID; sleep 280"),
        local.spec("left", resources=SMALL),
    ]
    lives = pilot_of(local, specs, workers=3)
    verdicts = finish(local, lives)
    assert kinds(verdicts) == [JobOutcome.KILLED] * 3 + [JobOutcome.VOID]
    assert [local.executions(spec.group[1]) for spec in specs] == [1, 1, 1, 0]


@pytest.mark.slurm
def test_chain_is_one_job_whose_followers_are_found_like_any_other(local: Bench) -> None:
    root = str(local.root)
    request = json.dumps({"root": root, "name": "one", "how": "0"}).encode()
    command = (sys.executable, "-P", "-u", "-m", SEQUEL, "{attempt}/request.json")
    spec = JobSpec(group=("step", "one"), key=key_of("one"), command=command, request=request, resources=SMALL)
    (first,) = submit_pilot(
        local.client,
        [PilotTask(spec, lambda _: None, then=("two", "three"))],
        workers=1,
        python=sys.executable,
        run_id="run",
    )
    assert first is not None
    lives = [first]
    poller = Poller(local.client)
    try:
        for name in ("one", "two", "three"):
            verdict = poller.watch(lives[-1], done=(local.root / f"{name}.ran").exists).wait(180)
            assert verdict is not None
            assert verdict.outcome is JobOutcome.DONE
            following = replace(spec, group=("step", "two" if name == "one" else "three"), key=key_of("two"))
            if name == "two":
                following = replace(following, key=key_of("three"))
            if name != "three":
                found = local.client.ensure(following, done=lambda: False, run_id="run")
                assert isinstance(found, JobHandle)
                assert (found.job, found.adopted) == (first.job, True)
                lives.append(found)
    finally:
        poller.close()
    assert local.client.scheduler.calls["sbatch"] == 1
    assert pilots_of(local)[0].is_closed
    assert list(local.client.root.open_attempts()) == []


@pytest.mark.slurm
def test_cancelled_allocation_keeps_what_is_done_and_leaves_the_rest_to_the_next_run(local: Bench) -> None:
    gate = local.root / "open"
    body = f"case $0 in *m00[0-2].sh) ;; *) until [ -e {gate} ]; do sleep 0.1; done ;; esac"
    specs = small(local, 12, body)
    lives = pilot_of(local, specs, workers=2)
    wait_for(lambda: begun(local, specs) == 5)
    local.cluster.ask("scancel", lives[0].job)
    verdicts = finish(local, lives)
    assert kinds(verdicts) == [JobOutcome.DONE] * 3 + [JobOutcome.CANCELLED] * 9
    assert [live.attempt.owner() for live in lives[:5]] == [live.job for live in lives[:5]]
    assert {live.attempt.owner() for live in lives[5:]} == {"void"}
    assert {local.executions(spec.group[1]) for spec in specs[5:]} == {0}
    gate.touch()
    again = pilot_of(local, specs[3:], workers=4, run_id="again")
    assert set(kinds(finish(local, again))) == {JobOutcome.DONE}
    assert [local.executions(spec.group[1]) for spec in specs] == [1] * 3 + [2] * 2 + [1] * 7


@pytest.mark.slurm
def test_allocation_that_nobody_begins_any_more_is_tried_again(local: Bench) -> None:
    """A warning before the time limit: what is in hand is out of time, the others were never begun."""
    specs = small(local, 6, "sleep 280")
    lives = pilot_of(local, specs, workers=2)
    wait_for(lambda: begun(local, specs) == 2)
    local.cluster.ask("scancel", "--batch", "--signal=USR1", lives[0].job)
    verdicts = finish(local, lives)
    assert kinds(verdicts) == [JobOutcome.TIMEOUT] * 2 + [JobOutcome.VOID] * 4
    assert executions(local, specs[:2]) == {1}
    assert executions(local, specs[2:]) == {0}


@pytest.mark.slow
@pytest.mark.slurm
def test_allocation_that_the_scheduler_starts_again_takes_up_what_it_had_in_hand(local: Bench) -> None:
    once = "[ -e $0.again ] || { touch $0.again; sleep 280; }"
    specs = [local.spec("quick", resources=SMALL), *(local.spec(f"s{n}", once, resources=SMALL) for n in range(3))]
    lives = pilot_of(local, specs, workers=2)
    with watched(local, lives) as watches:
        wait_for(lambda: all((local.root / f"s{number}.sh.again").exists() for number in range(2)))
        local.cluster.ask("scontrol", "requeue", lives[0].job)
        local.start_again(lives[1])
        wait_for((local.root / "s2.sh.again").exists)
        local.cluster.ask("scontrol", "requeue", lives[0].job)
        local.start_again(lives[3])
        wait_for(lambda: all(watch.ended.is_set() for watch in watches), timeout_s=300)
        assert kinds([verdict(watch) for watch in watches]) == [JobOutcome.DONE] * 4
    assert [local.executions(spec.group[1]) for spec in specs] == [1, 2, 2, 2]
    assert {live.attempt.number for live in lives} == {1}
    assert pilots_of(local)[0].is_closed


@pytest.mark.slow
@pytest.mark.slurm
def test_time_limit_of_the_allocation_is_that_of_what_it_had_in_hand(local: Bench) -> None:
    short = Resources(memory="32M", time="1")
    specs = [local.spec(f"t{number}", "trap '' USR1; sleep 300", resources=short) for number in range(4)]
    lives = submit_pilot(local.client, tasks(specs), workers=2, python=sys.executable, time_limit="1")
    found = [live for live in lives if live is not None]
    with watched(local, found) as watches:
        wait_for(lambda: all(watch.ended.is_set() for watch in watches), timeout_s=400)
        assert kinds([verdict(watch) for watch in watches]) == [JobOutcome.TIMEOUT] * 2 + [JobOutcome.VOID] * 2
