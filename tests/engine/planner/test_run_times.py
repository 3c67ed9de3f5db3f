"""What a step that never ran would take: the median of the same step of other experiments, and how that is said."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from morphseq_dagster.cli import main
from morphseq_dagster.engine.planner.plan import plan_experiments
from morphseq_dagster.engine.planner.run_times import SAMPLE, Cost, RunTimes, describe_cost, estimate_cost
from morphseq_dagster.engine.planner.step_plans import Estimate, StepPlan
from morphseq_dagster.engine.storage.records import WellState, encode, read_record
from morphseq_dagster.engine.workspace import Workspace
from morphseq_dagster.morphseq.pipeline import MORPHSEQ
from tests.support.fabricated import fabricate_experiment, fabricate_inputs

NEW = "20240601"
Took = Callable[..., None]


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "root", MORPHSEQ)


@pytest.fixture
def took(workspace: Workspace) -> Took:
    """Fabricates an experiment up to `ff_images`, which took so many seconds for so many wells."""

    def took(experiment: str, seconds: float, *, wells: int = 0, computed: int | None = None, **values: object) -> None:
        fabricate_experiment(workspace, experiment, steps=["raw_manifest", "ff_images"])
        path = workspace.output("ff_images", experiment=experiment)
        record = read_record(workspace.layout, primary=path)
        assert record is not None
        states = {f"A{number:02d}": WellState(key="0", status="ok") for number in range(1, wells + 1)}
        counts = {} if computed is None else {"wells_computed": computed}
        changed = {"seconds": seconds, "wells": states, "counts": counts, **values}
        workspace.layout.record(path).write_bytes(encode(record.model_copy(update=changed)))

    return took


def test_median_of_other_experiments_is_taken(workspace: Workspace, took: Took) -> None:
    for number, seconds in enumerate((1.0, 100.0, 7.0)):
        took(f"2024010{number + 1}", seconds)
    ask = RunTimes(workspace).estimate
    assert ask("ff_images", experiment=NEW) == Estimate(7.0, 3)
    assert ask("ff_images", experiment="20240102") == Estimate(4.0, 2), "an experiment is no witness of itself"
    assert ask("snips", experiment=NEW) is None


def test_where_wells_are_known_the_median_is_per_well(workspace: Workspace, took: Took) -> None:
    took("20240101", 10.0, wells=10)
    took("20240102", 9.0, wells=3)
    took("20240103", 20.0, wells=10)
    ask = RunTimes(workspace).estimate
    assert ask("ff_images", experiment=NEW, wells=6) == Estimate(12.0, 3)
    assert ask("ff_images", experiment=NEW) == Estimate(10.0, 3)
    assert ask("raw_manifest", experiment=NEW, wells=6) == Estimate(2.0, 3), "a step without wells is compared whole"


def test_adopted_repaired_and_damaged_ones_are_no_witnesses(workspace: Workspace, took: Took) -> None:
    took("20240101", 0.0, origin="adopted")
    took("20240102", 1.0, wells=9, computed=1)
    took("20240103", 5.0)
    broken = workspace.output("ff_images", experiment="20240103")
    took("20240104", 60.0, wells=9, computed=9)
    workspace.layout.record(broken).write_text("{")
    assert RunTimes(workspace).estimate("ff_images", experiment=NEW) == Estimate(60.0, 1)


def test_the_last_experiments_count_and_no_more_than_the_sample(workspace: Workspace, took: Took) -> None:
    for number in range(SAMPLE + 3):
        took(f"20240101_{number:02d}", float(number))
    found = RunTimes(workspace).estimate("ff_images", experiment=NEW)
    assert found is not None
    assert found.experiments == SAMPLE + 1
    assert found.seconds == 2 + SAMPLE / 2  # 2 .. SAMPLE + 2


def test_plan_of_a_new_experiment_carries_estimates_and_an_adopted_result_counts_as_never_run(
    workspace: Workspace, took: Took
) -> None:
    took("20240101", 12.0, wells=4)
    fabricate_inputs(workspace.layout, NEW)
    (plan,) = plan_experiments(workspace, experiments=[NEW])
    assert plan.verdict("ff_images").estimate == Estimate(12.0, 1)
    assert plan.verdict("snips").estimate is None
    cost = estimate_cost(plan.pending)
    assert (cost.estimated, cost.experiments, cost.unknown) == (2, 1, len(MORPHSEQ.steps) - 2)
    assert cost.most_s == 12.0 + 2.0
    took(NEW, 0.0, origin="adopted", wells=2, step_version=99)
    (plan,) = plan_experiments(workspace, experiments=[NEW])
    assert (plan.verdict("ff_images").seconds, plan.verdict("ff_images").estimate) == (None, Estimate(6.0, 1))
    took(NEW, 3.0, step_version=99)
    (plan,) = plan_experiments(workspace, experiments=[NEW])
    assert (plan.verdict("ff_images").seconds, plan.verdict("ff_images").estimate) == (3.0, None)


def test_words_say_about_and_from_how_many(workspace: Workspace) -> None:
    del workspace
    runs = {"runs": True, "certain": True}
    both = [StepPlan("a", seconds=60.0, **runs), StepPlan("b", estimate=Estimate(60.0, 3), **runs)]
    assert describe_cost(estimate_cost(both)) == "about 2.0 min (1 of them judged by 3 other experiments)"
    maybe = [*both, StepPlan("c", runs=True, estimate=Estimate(3480.0, 1)), StepPlan("d", runs=True)]
    assert describe_cost(estimate_cost(maybe)) == (
        "about 2.0 min to 1.0 h (2 of them judged by 3 other experiments) and 1 of unknown cost (never run)"
    )
    assert describe_cost(Cost(2.0, 20.0, 0)) == "2 s to 20 s"
    assert describe_cost(Cost(0.0, 0.0, 4)) == "4 of unknown cost (never run)"


def test_commands_tell_the_estimate(workspace: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    for experiment in ("20240101", "20240102"):
        fabricate_experiment(workspace, experiment)
    fabricate_inputs(workspace.layout, NEW)
    root = ["--data-root", str(workspace.data_root)]
    words = "about 36 s (18 of them judged by 2 other experiments)"
    for command in (["stale"], ["explain", NEW], ["pipeline", "--dry-run", "--experiments", NEW]):
        assert main([*command, *root]) == 0
        assert words in capsys.readouterr().out
    main(["explain", NEW, "snips", "--format", "json", *root])
    (step,) = json.loads(capsys.readouterr().out)["steps"]
    assert (step["cost"]["estimated_steps"], step["cost"]["estimated_from_experiments"]) == (4, 2)
