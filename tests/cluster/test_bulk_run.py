"""Bulk runs: every experiment walks its own way; on a real scheduler and in this process."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterable

import pytest

from morphseq_dagster.cluster.attempt_folder import JobRoot
from morphseq_dagster.cluster.bulk_run import BulkRun
from morphseq_dagster.cluster.connection import connect
from morphseq_dagster.cluster.executor import SlurmExecutor
from morphseq_dagster.cluster.experiment_progress import Event, StepFailed, StepMade, StepUpToDate
from morphseq_dagster.engine.executors.local import LocalExecutor
from morphseq_dagster.engine.executors.protocol import Executor
from morphseq_dagster.engine.storage.records import Record, read_failure, read_record
from morphseq_dagster.engine.storage.step_locks import hold_lock
from morphseq_dagster.engine.workspace import Workspace
from morphseq_dagster.errors import PermanentError
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

STEPS = ("first", "second", "third")
QUICK = {"environment": "any", "grace_s": 3, "lost_s": 10, "settle_s": 3}


def make_settings(**more: object) -> SlurmSettings:
    return SlurmSettings.model_validate({"resources": {"memory": "200M", "time": 5}, **QUICK, **more})


def at_cluster(**more: object) -> Callable[[str, str], Executor]:
    place = SlurmExecutor(make_settings(**more), pipeline=RELAY)
    return lambda step, experiment: place


def here(step: str, experiment: str) -> Executor:
    return LocalExecutor(RELAY_PIPELINE)


def start(
    workspace: Workspace,
    names: Iterable[str],
    *,
    place_of: Callable[[str, str], Executor],
    run_id: str = "run",
    steps: tuple[str, ...] = STEPS,
    forced: frozenset[str] = frozenset(),
) -> BulkRun:
    chains = dict.fromkeys(names, steps)
    return BulkRun(workspace, chains=chains, executor_of=place_of, run_id=run_id, forced=forced)


def walk(bulk: BulkRun) -> list[Event]:
    with bulk:
        return list(bulk.events())


def record(workspace: Workspace, experiment: str, step: str = "third") -> Record | None:
    return read_record(workspace.layout, primary=workspace.output(step, experiment=experiment))


def told(items: Iterable[Event], kind: type[Event]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for item in items:
        if isinstance(item, kind):
            found.setdefault(item.experiment, []).append(item.step)
    return found


# in this process


def test_failure_ends_its_own_way_and_no_other(relay: Workspace) -> None:
    names = add_experiments(relay, 4, failing=[1])
    items = walk(start(relay, names, place_of=here))
    assert told(items, StepMade) == {name: list(STEPS) for name in names if name != names[1]} | {names[1]: ["first"]}
    (failed,) = [item for item in items if isinstance(item, StepFailed)]
    assert (failed.experiment, failed.step, failed.untried) == (names[1], "second", ("third",))
    assert isinstance(failed.error, PermanentError)
    assert failed.error.found == "fail"
    assert read_failure(relay.layout, primary=relay.output("second", experiment=names[1])) is not None
    assert [name for name in names if record(relay, name) is None] == [names[1]]
    assert locks_of(relay) == []


def test_what_stands_is_told_as_standing_and_not_made_again(relay: Workspace) -> None:
    names = add_experiments(relay, 2)
    walk(start(relay, names, place_of=here))
    again = walk(start(relay, names, place_of=here, run_id="again"))
    assert told(again, StepUpToDate) == {name: list(STEPS) for name in names}
    assert len(again) == 6
    forced = walk(start(relay, names, place_of=here, run_id="forced", forced=frozenset(["first"])))
    assert told(forced, StepMade) == {name: ["first"] for name in names}
    assert told(forced, StepUpToDate) == {name: ["second", "third"] for name in names}, "equal content stops the chain"


def test_forced_step_is_made_once_also_when_its_run_is_resumed(relay: Workspace) -> None:
    names = add_experiments(relay, 2)
    walk(start(relay, names, place_of=here))
    forced = frozenset(["first"])
    with start(relay, names, place_of=here, run_id="again", forced=forced) as bulk:
        assert isinstance(next(bulk.events()), StepMade)
    resumed = walk(start(relay, names, place_of=here, run_id="again", forced=forced))
    assert told(resumed, StepMade) == {names[1]: ["first"]}


def test_missing_input_is_a_failure_of_its_experiment(relay: Workspace) -> None:
    names = add_experiments(relay, 1)
    items = walk(start(relay, ["20230101", *names], place_of=here))
    assert told(items, StepFailed) == {"20230101": ["first"]}
    assert told(items, StepMade) == {names[0]: list(STEPS)}


def test_leaving_early_releases_the_claim_and_keeps_what_is_done(relay: Workspace) -> None:
    names = add_experiments(relay, 3)
    with start(relay, names, place_of=here) as bulk:
        assert isinstance(next(bulk.events()), StepMade)
        assert len(locks_of(relay)) == 1, "the claim is held while the item is told"
    assert locks_of(relay) == []
    assert record(relay, names[0], "first") is not None


def test_experiment_at_work_elsewhere_is_tried_again_while_others_go_on(
    relay: Workspace, capfd: pytest.CaptureFixture[str]
) -> None:
    names = add_experiments(relay, 3)
    claim = relay.layout.lock("first", experiment=names[0])
    with start(relay, names, place_of=here) as bulk:
        items = bulk.events()
        with hold_lock(claim, run_id="elsewhere"):
            before = [next(items) for _ in range(6)]
        after = list(items)
    assert told(before, StepMade) == {name: list(STEPS) for name in names[1:]}
    assert told(after, StepMade) == {names[0]: list(STEPS)}
    assert capfd.readouterr().err.count("at work elsewhere") == 1, "said once"


# at the cluster


@pytest.mark.slurm
def test_twelve_experiments_with_one_failing_and_again(cluster: LocalCluster, relay: Workspace) -> None:
    names = add_experiments(relay, 12, failing=[3])
    items = walk(start(relay, names, place_of=at_cluster()))
    good = [name for name in names if name != names[3]]
    assert told(items, StepMade) == {name: list(STEPS) for name in good} | {names[3]: ["first"]}
    assert told(items, StepFailed) == {names[3]: ["second"]}
    results = [record(relay, name) for name in good]
    assert len({found.data_version for found in results if found is not None}) == 11
    assert {found.place for found in results if found is not None} == {"slurm"}
    attempts = attempts_of(relay, "*")
    assert len(attempts) == 12 + 12 + 11
    assert all(attempt.is_closed for attempt in attempts)
    assert locks_of(relay) == []

    again = walk(start(relay, names, place_of=at_cluster(), run_id="again"))
    assert told(again, StepMade) == {}
    assert told(again, StepFailed) == {names[3]: ["second"]}
    assert [a.folder.parts[-4:-2] for a in attempts_of(relay, "*") if a not in attempts] == [("second", names[3])]


@pytest.mark.slurm
def test_no_more_jobs_at_once_than_the_settings_allow(cluster: LocalCluster, relay: Workspace) -> None:
    names, go = add_experiments(relay, 20), hold(relay)
    with touching(go, when=lambda: count_records(relay, "start") == 5):
        made = walk(start(relay, names, place_of=at_cluster(max_jobs=5), steps=("first",)))
    assert told(made, StepMade) == {name: ["first"] for name in names}
    assert len(attempts_of(relay)) == 20
    begun = sorted(float((attempt.record("intent") or {})["t"]) for attempt in attempts_of(relay))
    closed = sorted(float((attempt.record("closed") or {})["t"]) for attempt in attempts_of(relay))
    at_once = [number + 1 - sum(end < moment for end in closed) for number, moment in enumerate(begun)]
    assert max(at_once) == 5


@pytest.mark.slurm
def test_steps_of_this_machine_and_of_the_cluster_in_one_chain(cluster: LocalCluster, relay: Workspace) -> None:
    names = add_experiments(relay, 3)
    cluster_place, own = at_cluster(), LocalExecutor(RELAY_PIPELINE)

    def choose(step: str, experiment: str) -> Executor:
        return own if step == "second" else cluster_place(step, experiment)

    items = walk(start(relay, names, place_of=choose))
    assert told(items, StepMade) == {name: list(STEPS) for name in names}
    places = [[found.place for step in STEPS if (found := record(relay, name, step))] for name in names]
    assert places == [["slurm", "process", "slurm"]] * 3


@pytest.mark.slurm
def test_doubtful_submission_holds_nobody_else_up(cluster: LocalCluster, relay: Workspace) -> None:
    names = add_experiments(relay, 2)
    spec = relay.pipeline.spec("first")
    request = relay.request(spec, experiment=names[0], run_id="dead")
    root = JobRoot(relay.layout.jobs)
    doubtful = root.attempt(("first", names[0]), key=request.key, number=1)
    root.begin(doubtful)
    doubtful.write("intent", t=time.time(), host="elsewhere", pid=1, run_id="dead", token=doubtful.token, resources={})
    items = []
    with start(relay, names, place_of=at_cluster(grace_s=240), steps=("first",)) as bulk:
        for item in bulk.events():
            items.append(item)
            # Its grace ends when the other one is done, and by itself long after.
            doubtful.write("intent", **{**(doubtful.record("intent") or {}), "t": time.time() - 300})
    assert [item.experiment for item in items] == [names[1], names[0]]
    assert told(items, StepMade) == {name: ["first"] for name in names}
    assert (doubtful.record("closed") or {})["kind"] == "void"
    assert len(root.attempts(("first", names[0]), key=request.key)) == 2


@pytest.mark.slurm
def test_jobs_of_a_killed_bulk_run_are_taken_over_without_a_submission(cluster: LocalCluster, relay: Workspace) -> None:
    names, go = add_experiments(relay, 6), hold(relay)
    child = start_child(relay, names, settings=make_settings())
    wait_for(lambda: count_records(relay, "job") == 6)
    child.kill()
    child.communicate()
    before = connect(make_settings(), data_root=relay.data_root)[0].scheduler.calls["sbatch"]
    with touching(go, when=lambda: all(attempt.record("adopted") is not None for attempt in attempts_of(relay))):
        items = walk(start(relay, names, place_of=at_cluster(), steps=("first",), run_id="second"))
    assert told(items, StepMade) == {name: ["first"] for name in names}
    assert connect(make_settings(), data_root=relay.data_root)[0].scheduler.calls["sbatch"] == before == 0
    assert {found.run_id for name in names if (found := record(relay, name, "first"))} == {"child"}
    assert len(attempts_of(relay)) == 6


@pytest.mark.slurm
@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_interrupted_bulk_run_cancels_all_its_jobs_and_keeps_what_is_done(
    cluster: LocalCluster, relay: Workspace, sent: signal.Signals
) -> None:
    names = add_experiments(relay, 6)
    for name in names[1:]:
        slow_down(relay, 200, experiment=name)
    child = start_child(relay, names, settings=make_settings())
    assert child.stdout is not None
    assert child.stdout.readline().strip() == names[0]
    wait_for(lambda: count_records(relay, "start") == 6)
    child.send_signal(sent)
    child.communicate(timeout=180)
    assert child.returncode != 0
    assert count_ends(relay) == {"cancelled": 5, "done": 1}
    left = cluster.ask("squeue", "-h", "-o", "%i").split()
    assert not {attempt.job for attempt in attempts_of(relay)} & set(left)
    assert locks_of(relay) == []
    assert record(relay, names[0], "first") is not None
    failures = [read_failure(relay.layout, primary=relay.output("first", experiment=name)) for name in names]
    assert [failure is None for failure in failures] == [True] + [False] * 5
