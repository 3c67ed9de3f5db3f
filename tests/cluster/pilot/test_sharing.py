"""Packing: experiments that are ready for a small step share an allocation; the choice, and bulk runs on a cluster."""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Iterable, Mapping

import pytest

from morphseq_dagster.cluster.bulk_run import BulkRun
from morphseq_dagster.cluster.connection import connect
from morphseq_dagster.cluster.executor import SlurmExecutor
from morphseq_dagster.cluster.experiment_progress import Event, StepFailed, StepMade
from morphseq_dagster.cluster.pilot.sharing import Ready, Sharing
from morphseq_dagster.engine.executors.local import LocalExecutor
from morphseq_dagster.engine.executors.protocol import Committed
from morphseq_dagster.engine.storage.records import read_record
from morphseq_dagster.engine.workspace import Workspace
from morphseq_dagster.settings.job_values import Resources
from morphseq_dagster.settings.slurm import SlurmSettings
from morphseq_dagster.testing.relay import RELAY, RELAY_PIPELINE
from tests.support.relay_bulk import (
    add_experiments,
    attempts_of,
    count_ends,
    count_records,
    hold,
    locks_of,
    slow_down,
    start_child,
)
from tests.support.slurm_bench import touching, wait_for
from tests.support.slurm_cluster import LocalCluster

TIMES = {"environment": "any", "grace_s": 3, "lost_s": 10, "settle_s": 3}


def make_place(**more: object) -> SlurmExecutor:
    small = {step: {"small": True} for step in ("first", "second")}
    values = {"resources": {"memory": "60M", "time": 5}, "steps": small, "pack_above": 3, **TIMES, **more}
    return SlurmExecutor(SlurmSettings.model_validate(values), pipeline=RELAY)


def walk(
    workspace: Workspace,
    names: Iterable[str],
    *,
    place: SlurmExecutor,
    steps: tuple[str, ...] = ("first",),
    run: str = "r",
) -> list[Event]:
    chains = dict.fromkeys(names, steps)
    with BulkRun(workspace, chains=chains, executor_of=lambda *_: place, run_id=run) as bulk:
        return list(bulk.events())


def submissions(workspace: Workspace, place: SlurmExecutor) -> int:
    return connect(place.settings, data_root=workspace.data_root)[0].scheduler.calls["sbatch"]


def facts_of(made: StepMade) -> Mapping[str, str | int | float]:
    assert isinstance(made.outcome, Committed)
    return made.outcome.facts


# the choice


def choose(
    sharing: Sharing | Workspace, names: Iterable[str], place: SlurmExecutor, *, steps: tuple[str, ...] = ("first",)
) -> list[tuple[list[str], tuple[str, ...], int]]:
    """Experiments, steps after the first, and experiments at once of each job that is chosen."""
    sharing = Sharing(sharing) if isinstance(sharing, Workspace) else sharing
    shares = sharing.choose([Ready(name, steps, place) for name in names]).shares
    assert {share.step for share in shares} <= {steps[0]}
    return [(list(share.experiments), share.then, share.workers) for share in shares]


def test_small_steps_with_equal_resources_are_chosen_above_the_threshold(relay: Workspace) -> None:
    names = add_experiments(relay, 5)
    special = {names[4]: {"resources": {"memory": "1G"}}}
    assert choose(relay, names, make_place()) == [(names, (), 8)]
    assert choose(relay, names, make_place(experiments=special, pack_workers=2)) == [(names[:4], (), 2)]
    assert choose(relay, names[:3], make_place()) == [], "no more than the threshold"
    assert choose(relay, names, make_place(pack_above=0)) == [], "switched off"
    assert choose(relay, names, make_place(resources={"gpus": 1})) == [], "GPUs cannot be shared"
    assert choose(relay, names, make_place(steps={"first": {"small": False}})) == []
    assert choose(relay, names, make_place(), steps=("first", "second")) == [(names, (), 8)], "one step is the default"


def test_a_job_goes_on_with_the_steps_that_ask_for_the_same(relay: Workspace) -> None:
    names, steps = add_experiments(relay, 2), ("first", "second", "third")
    alone = [([name], ("second", "third"), 1) for name in names]
    assert choose(relay, names, make_place(chain=True), steps=steps) == alone
    assert choose(relay, names, make_place(chain=True), steps=("third",)) == [], "there is nothing to go on with"
    assert choose(relay, names, make_place(), steps=steps) == [], "only when it is wanted"
    other = make_place(chain=True, steps={"third": {"cpus": 2}})
    assert choose(relay, names, other, steps=steps) == [([name], ("second",), 1) for name in names]
    broken = make_place(chain=True, steps={"second": {"memory": "1G"}})
    assert choose(relay, names, broken, steps=steps) == []
    gpu = make_place(chain=True, resources={"gpus": 1})
    assert choose(relay, names, gpu, steps=steps) == alone, "one experiment alone has the GPU"


def test_many_share_an_allocation_for_as_many_steps_as_are_small(relay: Workspace) -> None:
    names, steps = add_experiments(relay, 5), ("first", "second", "third")
    assert choose(relay, names, make_place(chain=True), steps=steps) == [(names, ("second",), 8)]
    long = make_place(chain=True, steps={"first": {"small": False}})
    assert choose(relay, names, long, steps=steps) == [([name], ("second", "third"), 1) for name in names]


def test_a_step_is_small_when_it_was_so_elsewhere_and_never_by_guess(relay: Workspace) -> None:
    names = add_experiments(relay, 5)
    place = make_place(steps={})
    assert choose(relay, names[1:], place) == [], "it never ran"
    chains = {names[0]: ("first",)}
    with BulkRun(relay, chains=chains, executor_of=lambda *_: LocalExecutor(RELAY_PIPELINE), run_id="r") as bulk:
        assert [type(item) for item in bulk.events()] == [StepMade]
    assert choose(relay, names[1:], place) == [(names[1:], (), 8)]


def test_few_wait_for_others_while_enough_are_on_their_way(relay: Workspace) -> None:
    names, place = add_experiments(relay, 5), make_place()
    ready = [Ready(name, ("first",), place) for name in names[:2]]
    assert Sharing(relay).choose(ready, coming={"first": 1}).awaiting == frozenset()
    choice = Sharing(relay).choose(ready, coming={"first": 2, "second": 9})
    assert (choice.shares, choice.awaiting) == ((), frozenset(names[:2]))
    assert Sharing(relay).choose(ready, coming={"second": 9}).awaiting == frozenset()
    long = make_place(steps={"first": {"small": False}})
    choice = Sharing(relay).choose([Ready(names[0], ("first",), long)], coming={"first": 9})
    assert choice.awaiting == frozenset()
    assert Sharing(relay).choose(ready, at_work={"first": 9}).awaiting == frozenset(), "those are nearly done with it"
    back = [Ready(names[0], ("first",), place, again=True)]
    assert Sharing(relay).choose(back, at_work={"first": 3}).awaiting == {names[0]}, "what ended it may bring them back"
    assert Sharing(relay).choose(back, at_work={"first": 2}).awaiting == frozenset()


def test_what_the_cluster_refused_is_not_chosen_again(relay: Workspace) -> None:
    names, sharing = add_experiments(relay, 5), Sharing(relay)
    sharing.refuse("first", resources=Resources(memory="60M", time="5"))
    assert choose(sharing, names, make_place()) == []
    assert choose(sharing, names, make_place(chain=True), steps=("first", "second")) == [], "each has a job of its own"
    assert choose(sharing, names, make_place(), steps=("second",)) == [(names, (), 8)]


# at the cluster


@pytest.mark.slurm
def test_chain_of_two_small_steps_takes_an_allocation_each_and_fails_alone(
    cluster: LocalCluster, relay: Workspace
) -> None:
    names, place = add_experiments(relay, 8, failing=[2]), make_place(pack_workers=4)
    items = walk(relay, names, place=place, steps=("first", "second"))
    made = Counter(item.experiment for item in items if isinstance(item, StepMade))
    assert made == {name: 2 if name != names[2] else 1 for name in names}
    (failed,) = [item for item in items if isinstance(item, StepFailed)]
    assert (failed.experiment, failed.step) == (names[2], "second")
    assert "fail" in str(failed.error)
    assert count_ends(relay) == {"done": 8}
    assert len({attempt.job for attempt in attempts_of(relay)}) == 1
    # How many come to the second step together is the scheduler's to say. The first to come wait until they are enough
    # to share; those who come when too few are left to wait for have a job each: three at most, and later ones.
    second = attempts_of(relay, "second")
    shared = [int(str(attempt.job)) for attempt in second if attempt.pilot is not None]
    single = [int(str(attempt.job)) for attempt in second if attempt.pilot is None]
    assert len(shared) + len(single) == 8
    assert len(single) <= place.settings.pack_above
    assert min(shared) < min(single, default=min(shared) + 1), "the first to come waited"
    assert all(shared.count(job) > place.settings.pack_above for job in shared)
    assert submissions(relay, place) == 1 + len(set(shared)) + len(single)
    jobs = [facts_of(item) for item in items if isinstance(item, StepMade)]
    assert all("run_s" in job and job["node"] for job in jobs)
    assert locks_of(relay) == []


@pytest.mark.slurm
def test_pilot_jobs_that_no_node_can_hold_become_single_jobs(
    cluster: LocalCluster, relay: Workspace, capfd: pytest.CaptureFixture[str]
) -> None:
    names = add_experiments(relay, 5)
    place = make_place(pack_workers=5, resources={"memory": "60M", "time": 5, "cpus": 15})
    assert [type(item) for item in walk(relay, names, place=place)] == [StepMade] * 5
    assert submissions(relay, place) == 6
    assert count_ends(relay) == {"cancelled": 5, "done": 5}
    assert capfd.readouterr().err.count("each gets a job of its own") == 1


@pytest.mark.slurm
@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"preamble": "/nowhere/modules.sh"}, "/nowhere/modules.sh"),
        ({"python": "/nowhere/bin/python"}, "/nowhere/bin/python"),
        ({"python": "/usr/bin/python3"}, "morphseq_dagster"),
    ],
)
def test_allocation_whose_program_cannot_start_is_not_tried_again(
    cluster: LocalCluster, relay: Workspace, wrong: dict[str, str], words: str
) -> None:
    names, place = add_experiments(relay, 4), make_place(**wrong)
    items = walk(relay, names, place=place)
    assert [type(item) for item in items] == [StepFailed] * 4
    assert submissions(relay, place) == 1
    assert count_ends(relay) == {"config": 4}
    told = str(items[0].error) if isinstance(items[0], StepFailed) else ""
    assert "did not start" in told
    assert words in told, "the last lines of the log say why"


@pytest.mark.slurm
def test_killed_bulk_run_is_taken_over_without_a_submission(cluster: LocalCluster, relay: Workspace) -> None:
    names, place = add_experiments(relay, 6), make_place(pack_workers=6)
    go = hold(relay)
    child = start_child(relay, names, settings=place.settings)
    wait_for(lambda: count_records(relay, "start") == 6)
    child.kill()
    child.communicate()
    with touching(go, when=lambda: all(attempt.record("adopted") is not None for attempt in attempts_of(relay))):
        items = walk(relay, names, place=place, run="second")
    assert [type(item) for item in items] == [StepMade] * 6
    assert submissions(relay, place) == 0
    assert count_ends(relay) == {"done": 6}
    records = [read_record(relay.layout, primary=relay.output("first", experiment=name)) for name in names]
    assert {found.run_id for found in records if found is not None} == {"child"}


@pytest.mark.slurm
def test_interrupted_bulk_run_cancels_its_allocation_and_keeps_what_is_done(
    cluster: LocalCluster, relay: Workspace
) -> None:
    names, place = add_experiments(relay, 6), make_place(pack_workers=2)
    slow_down(relay, 280)
    slow_down(relay, 0, experiment=names[0])
    child = start_child(relay, names, settings=place.settings)
    assert child.stdout is not None
    assert child.stdout.readline().strip() == names[0]
    wait_for(lambda: count_records(relay, "start") == 3)
    (job,) = {attempt.job for attempt in attempts_of(relay)}
    child.send_signal(signal.SIGTERM)
    child.communicate(timeout=180)
    assert child.returncode != 0
    assert count_ends(relay) == {"done": 1, "cancelled": 5}
    assert job not in cluster.ask("squeue", "-h", "-o", "%i").split()
    assert locks_of(relay) == []


@pytest.mark.slurm
def test_what_an_allocation_did_not_come_to_gets_another_one(cluster: LocalCluster, relay: Workspace) -> None:
    names, place = add_experiments(relay, 8), make_place(pack_workers=2)
    go, _ = (hold(relay, experiment=name) for name in names[:2])
    child = start_child(relay, names, settings=place.settings)
    wait_for(lambda: count_records(relay, "start") == 2)
    (job,) = {attempt.job for attempt in attempts_of(relay)}
    cluster.ask("scancel", "--batch", "--signal=USR1", str(job))
    wait_for(lambda: count_ends(relay)["timeout"] == 2)
    go.touch()
    out, err = child.communicate(timeout=240)
    assert child.returncode == 0, err
    assert sorted(out.split()) == names
    assert count_ends(relay) == {"timeout": 2, "void": 6, "done": 8}
    pilots = list((relay.layout.jobs / "_packs").glob("*"))
    assert len(pilots) == 2
