from __future__ import annotations

from collections.abc import Callable

import pytest

from morphseq_dagster.engine.planner.plan import find_pending
from morphseq_dagster.engine.workspace import Workspace
from morphseq_dagster.errors import PermanentError

EXP = "20240101"
ALL = frozenset({"letters", "lengths", "summary"})


def plan(workspace: Workspace, **options: frozenset[str]) -> list[tuple[str, bool]]:
    """Steps to run, and whether each will compute for sure."""
    found = find_pending(workspace, experiment=EXP, steps=options.pop("steps", ALL), **options)
    return [(pending.step, pending.certain) for pending in found]


def reason(workspace: Workspace, step: str) -> str:
    found = find_pending(workspace, experiment=EXP, steps=ALL)
    return next(pending.reason for pending in found if pending.step == step)


def chain(*steps: str) -> list[tuple[str, bool]]:
    """The first step for sure, those after it perhaps."""
    return [(step, number == 0) for number, step in enumerate(steps)]


def test_everything_is_missing_at_first_and_nothing_after_the_run(
    workspace: Workspace, add: Callable, run: Callable
) -> None:
    add(EXP)
    assert plan(workspace) == [("letters", True), ("lengths", True), ("summary", True)]
    assert "missing" in reason(workspace, "letters")
    run(EXP)
    assert plan(workspace) == []


def test_only_the_steps_asked_for_are_planned(workspace: Workspace, add: Callable) -> None:
    add(EXP)
    assert plan(workspace, steps=frozenset({"letters"})) == [("letters", True)]


def test_changed_recipe_is_named_and_what_follows_is_uncertain(
    workspace: Workspace, add: Callable, run: Callable
) -> None:
    add(EXP)
    run(EXP)
    recipe = workspace.layout.recipes(EXP)[1]
    recipe.parent.mkdir()
    recipe.write_text("[letters]\nupper = true\n")
    assert plan(workspace) == chain("letters", "lengths", "summary")
    assert "upper" in reason(workspace, "letters")
    assert "letters" in reason(workspace, "lengths")


def test_changed_input_is_named(workspace: Workspace, add: Callable, run: Callable) -> None:
    add(EXP)
    run(EXP)
    add(EXP, {"A01": "fish"})
    assert plan(workspace) == chain("letters", "lengths", "summary")
    assert "words" in reason(workspace, "letters")


def test_touched_input_is_no_reason(workspace: Workspace, add: Callable, run: Callable) -> None:
    add(EXP)
    run(EXP)
    add(EXP)
    assert plan(workspace) == []


def test_lost_output_is_a_reason(workspace: Workspace, add: Callable, run: Callable) -> None:
    add(EXP)
    run(EXP)
    workspace.output("lengths", experiment=EXP).unlink()
    assert plan(workspace) == chain("lengths", "summary")
    assert "lengths_20240101.csv is gone" in reason(workspace, "lengths")


def test_publication_that_was_cut_off_is_a_reason(workspace: Workspace, add: Callable, run: Callable) -> None:
    add(EXP)
    run(EXP)
    journal = workspace.layout.journal("letters", experiment=EXP)
    journal.parent.mkdir(exist_ok=True)
    journal.write_text("{}")
    assert plan(workspace)[0][0] == "letters"


def test_failure_is_a_reason_until_a_run_has_cleared_it(workspace: Workspace, add: Callable, run: Callable) -> None:
    add(EXP)
    run(EXP)
    add(EXP, {"A01": "fail"})
    run(EXP)
    assert plan(workspace)[0] == ("letters", True)
    add(EXP)
    run(EXP)
    assert plan(workspace) == []
    assert not workspace.layout.failure(workspace.output("letters", experiment=EXP)).exists()


def test_forced_step_runs_although_its_record_answers(workspace: Workspace, add: Callable, run: Callable) -> None:
    add(EXP)
    run(EXP)
    assert plan(workspace, forced=frozenset({"lengths"})) == chain("lengths", "summary")


def test_absent_required_input_is_told(workspace: Workspace, add: Callable) -> None:
    add(EXP, words=None)
    assert "words" in reason(workspace, "letters")


def test_broken_recipe_is_an_error_of_that_experiment(workspace: Workspace, add: Callable) -> None:
    add(EXP)
    recipe = workspace.layout.recipes(EXP)[1]
    recipe.parent.mkdir()
    recipe.write_text("[letters]\nuper = true\n")
    with pytest.raises(PermanentError, match="did you mean upper"):
        plan(workspace)
