"""Jobs that go on: one job carries the steps of an experiment, each a request of its own that somebody waits for."""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from morphseq_dagster.cluster.attempt_folder import JobRoot
from morphseq_dagster.cluster.bulk_run import BulkRun
from morphseq_dagster.cluster.executor import SlurmExecutor
from morphseq_dagster.cluster.experiment_progress import Event, StepFailed, StepMade, StepUpToDate
from morphseq_dagster.cluster.pilot.chaining import Follower, begin_next, can_follow
from morphseq_dagster.engine.executors.local import LocalExecutor
from morphseq_dagster.engine.storage.step_locks import hold_lock
from morphseq_dagster.engine.workspace import Workspace
from morphseq_dagster.morphseq.pipeline import MORPHSEQ
from morphseq_dagster.testing.relay import RELAY_PIPELINE
from tests.cluster.pilot.test_sharing import facts_of, make_place, submissions, walk
from tests.support.relay_bulk import add_experiments, attempts_of, start_child, write_recipe
from tests.support.slurm_bench import touching, wait_for
from tests.support.slurm_cluster import LocalCluster

STEPS = ("first", "second", "third")
ROOMY = {"resources": {"memory": "200M", "time": 5}}


def chain_place(**more: object) -> SlurmExecutor:
    return make_place(**{"chain": True, "pack_above": 0, **ROOMY, **more})


def walk_here(workspace: Workspace, name: str, *steps: str, run: str = "here") -> list[Event]:
    with BulkRun(
        workspace, chains={name: steps}, executor_of=lambda *_: LocalExecutor(RELAY_PIPELINE), run_id=run
    ) as bulk:
        return list(bulk.events())


def outputs(workspace: Workspace, name: str) -> list[bytes]:
    return [workspace.output(step, experiment=name).read_bytes() for step in STEPS]


# the choice of the node


class Heard:
    """What would be begun."""

    def __init__(self) -> None:
        self.followers: list[Follower] = []
        self.free: list[bool] = []

    def __call__(self, follower: Follower, *, is_free: Callable[[], bool]) -> None:
        self.followers.append(follower)
        self.free.append(is_free())


def followers_of(workspace: Workspace, name: str, *then: str) -> list[tuple[str, tuple[str, ...]]]:
    """Steps that follow on the first one, with what may follow on them."""
    heard = Heard()
    request = workspace.request(workspace.pipeline.spec("first"), experiment=name, run_id="run")
    begin_next(workspace, request=request, then=then, begin=heard)
    assert heard.free == [True] * len(heard.followers)
    assert [one.key for one in heard.followers] == [
        workspace.request(workspace.pipeline.spec(one.group[0]), experiment=name).key for one in heard.followers
    ]
    return [(one.group[0], one.then) for one in heard.followers]


def test_chaining_is_the_first_that_does_not_stand(relay: Workspace) -> None:
    (name,) = add_experiments(relay, 1)
    walk_here(relay, name, "first")
    assert followers_of(relay, name, "second", "third") == [("second", ("third",))]
    walk_here(relay, name, "second")
    assert followers_of(relay, name, "second", "third") == [("third", ())]
    walk_here(relay, name, "third")
    assert followers_of(relay, name, "second", "third") == []


def test_where_anything_is_in_doubt_the_node_goes_no_further(relay: Workspace) -> None:
    (name,) = add_experiments(relay, 1)
    walk_here(relay, name, "first")
    claim = relay.layout.lock("second", experiment=name)
    with hold_lock(claim, run_id="another"):
        assert followers_of(relay, name, "second") == [], "somebody else is at it"
    with hold_lock(claim, run_id="run"):
        assert followers_of(relay, name, "second") == [("second", ())], "it is this run that waits for it"
    foreign = relay.output("second", experiment=name)
    foreign.parent.mkdir(exist_ok=True)
    foreign.write_text("whose?")
    assert followers_of(relay, name, "second") == [], "a file that no record accounts for"
    foreign.unlink()
    root = JobRoot(relay.layout.jobs)
    root.begin(root.attempt(("second", name), key="a" * 64, number=1))
    assert followers_of(relay, name, "second") == [], "a job of earlier may be at work"


def test_claim_taken_while_the_folder_was_made_is_seen(relay: Workspace) -> None:
    (name,) = add_experiments(relay, 1)
    walk_here(relay, name, "first")
    said = []

    def begin(follower: Follower, *, is_free: Callable[[], bool]) -> None:
        assert follower.group == ("second", name)
        with hold_lock(relay.layout.lock("second", experiment=name), run_id="another"):
            said.append(is_free())

    request = relay.request(relay.pipeline.spec("first"), experiment=name, run_id="run")
    begin_next(relay, request=request, then=("second",), begin=begin)
    assert said == [False]


def test_steps_that_read_weights_of_the_asking_machine_are_asked_for_there(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path, MORPHSEQ)
    assert can_follow(workspace, step="gdino_raw", experiment="20240418"), "by default it reads none"
    recipe = workspace.layout.recipes("20240418")[0]
    recipe.parent.mkdir()
    recipe.write_text('[gdino_raw]\nbackend = "groundingdino"\n')
    assert not can_follow(workspace, step="gdino_raw", experiment="20240418")
    assert can_follow(workspace, step="snips", experiment="20240418")


# at the cluster


@pytest.mark.slurm
def test_one_job_makes_all_steps_and_each_is_told_as_if_alone(cluster: LocalCluster, relay: Workspace) -> None:
    (name,), place = add_experiments(relay, 1), chain_place()
    items = walk(relay, [name], place=place, steps=STEPS)
    assert [(type(item), item.step) for item in items] == [(StepMade, step) for step in STEPS]
    jobs = [facts_of(item) for item in items if isinstance(item, StepMade)]
    assert len({job["job"] for job in jobs}) == 1
    assert all("run_s" in job and job["node"] and Path(str(job["log"])).is_file() for job in jobs)
    assert submissions(relay, place) == 1
    attempts = [attempt for step in STEPS for attempt in attempts_of(relay, step)]
    assert [(attempt.record("closed") or {})["kind"] for attempt in attempts] == ["done"] * 3
    assert attempts[0].pilot is not None
    assert attempts[0].pilot.is_closed
    assert list((relay.layout.jobs / "_ended").iterdir()) == []
    assert list(relay.layout.lock("first", experiment=name).parent.glob("*.json")) == []
    elsewhere = Workspace(relay.data_root.with_name("other"), RELAY_PIPELINE)
    add_experiments(elsewhere, 1)
    walk_here(elsewhere, name, *STEPS)
    assert outputs(relay, name) == outputs(elsewhere, name)


@pytest.mark.slurm
def test_many_experiments_with_all_their_steps_are_one_submission(cluster: LocalCluster, relay: Workspace) -> None:
    names = add_experiments(relay, 12, failing=[5])
    small = {step: {"small": True} for step in STEPS}
    place = make_place(chain=True, pack_above=3, pack_workers=4, steps=small, **ROOMY)
    items = walk(relay, names, place=place, steps=STEPS)
    done = Counter(item.experiment for item in items if isinstance(item, StepMade))
    assert done == {name: 3 if name != names[5] else 1 for name in names}
    (failed,) = [item for item in items if isinstance(item, StepFailed)]
    assert (failed.experiment, failed.step, failed.untried) == (names[5], "second", ("third",))
    assert submissions(relay, place) == 1
    assert attempts_of(relay, "third")[0].job == attempts_of(relay)[0].job


@pytest.mark.slurm
def test_steps_that_stand_are_passed_over_and_other_needs_end_the_chain(
    cluster: LocalCluster, relay: Workspace
) -> None:
    (name,), place = add_experiments(relay, 1), chain_place(steps={"third": {"memory": "210M"}})
    items = walk(relay, [name], place=place, steps=STEPS)
    assert [type(item) for item in items] == [StepMade] * 3
    assert submissions(relay, place) == 2
    write_recipe(relay, "[first]\nslow_s = 0.01\n[third]\nslow_s = 0.01\n")
    together = chain_place()
    items = walk(relay, [name], place=together, steps=STEPS, run="again")
    assert [(type(item), item.step) for item in items] == [
        (StepMade, "first"),
        (StepUpToDate, "second"),
        (StepMade, "third"),
    ]
    assert len(attempts_of(relay, "second")) == 1, "the same words again: nothing to do"
    first, third = ([a for a in attempts_of(relay, step) if a.run_id == "again"] for step in ("first", "third"))
    assert len(first) == len(third) == 1
    assert third[0].pilot == first[0].pilot is not None


@pytest.mark.slurm
@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL])
def test_wait_that_ends_in_the_middle_of_a_chain(cluster: LocalCluster, relay: Workspace, end: signal.Signals) -> None:
    """TERM cancels the step that the job has gone on to; after KILL the next run takes it over."""
    (name,), place = add_experiments(relay, 1), chain_place()
    go = relay.data_root.with_name("go")
    write_recipe(relay, f'[second]\nhold = "{go}"\n')
    child = start_child(relay, [name], settings=place.settings, steps=STEPS)
    wait_for(lambda: any(attempt.record("start") for attempt in attempts_of(relay, "second")))
    child.send_signal(end)
    child.communicate(timeout=180)
    (second,) = attempts_of(relay, "second")
    if end == signal.SIGTERM:
        assert (second.record("closed") or {})["kind"] == "cancelled"
        assert cluster.ask("squeue", "-h", "-o", "%i").split() == []
    else:
        assert not second.is_closed
    with touching(go, when=lambda: end == signal.SIGTERM or second.record("adopted") is not None):
        items = walk(relay, [name], place=place, steps=STEPS, run="second")
    assert [item.step for item in items if isinstance(item, StepMade)] == ["second", "third"]
    assert submissions(relay, place) == (1 if end == signal.SIGTERM else 0)
    assert len(attempts_of(relay, "second")) == (2 if end == signal.SIGTERM else 1)
    assert len(attempts_of(relay, "third")) == 1
    assert all(attempt.is_closed for step in STEPS for attempt in attempts_of(relay, step))


@pytest.mark.slurm
def test_cancel_reaches_a_step_of_which_the_waiting_run_has_not_heard(cluster: LocalCluster, relay: Workspace) -> None:
    """The run is interrupted after the first step, before the experiment moves on; the job is at the second one."""
    (name,), place = add_experiments(relay, 1), chain_place()
    write_recipe(relay, "[second]\nslow_s = 280\n")
    chains = {name: STEPS}
    with BulkRun(relay, chains=chains, executor_of=lambda *_: place, run_id="run") as bulk:
        item = next(bulk.events())
        assert item.step == "first"
        wait_for(lambda: any(attempt.record("start") for attempt in attempts_of(relay, "second")))
    (second,) = attempts_of(relay, "second")
    assert (second.record("closed") or {})["kind"] == "cancelled"
    assert cluster.ask("squeue", "-h", "-o", "%i").split() == []
    assert attempts_of(relay, "third") == []


@pytest.mark.slurm
def test_chain_for_which_no_partition_has_time_is_asked_for_step_by_step(
    cluster: LocalCluster, relay: Workspace, capfd: pytest.CaptureFixture[str]
) -> None:
    (name,) = add_experiments(relay, 1)
    place = chain_place(resources={"memory": "200M", "time": 5, "partition": "short"})
    cluster.ask("scontrol", "create", "PartitionName=short", "Nodes=ALL", "MaxTime=10", "State=UP")
    try:
        items = walk(relay, [name], place=place, steps=STEPS)
    finally:
        cluster.ask("scontrol", "delete", "PartitionName=short")
    assert [type(item) for item in items] == [StepMade] * 3
    assert "each gets a job of its own" in capfd.readouterr().err
    assert len({attempt.job for step in STEPS for attempt in attempts_of(relay, step)} - {None}) >= 2
