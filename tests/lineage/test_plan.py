from __future__ import annotations

from collections.abc import Callable

import pytest

from morphseq_dagster.errors import PermanentError
from morphseq_dagster.lineage.plan import Pending, find_pending
from morphseq_dagster.steps.workspace import Workspace

EXP = "20240101"
ALL = frozenset({"letters", "lengths", "summary"})


def plan(workspace: Workspace, **options: frozenset[str]) -> tuple[Pending, ...]:
    return find_pending(workspace, experiment=EXP, steps=options.pop("steps", ALL), **options)


def test_everything_is_missing_at_first_and_nothing_after_the_run(
    workspace: Workspace, add: Callable, run: Callable
) -> None:
    add(EXP)
    assert plan(workspace) == tuple(Pending(name, "missing") for name in ("letters", "lengths", "summary"))
    run(EXP)
    assert plan(workspace) == ()


def test_only_the_steps_asked_for_are_planned(workspace: Workspace, add: Callable) -> None:
    add(EXP)
    assert [pending.step for pending in plan(workspace, steps=frozenset({"letters"}))] == ["letters"]


def test_changed_recipe_is_named_and_what_follows_is_uncertain(
    workspace: Workspace, add: Callable, run: Callable
) -> None:
    add(EXP)
    run(EXP)
    recipe = workspace.layout.recipes(EXP)[1]
    recipe.parent.mkdir()
    recipe.write_text("[letters]\nupper = true\n")
    assert plan(workspace) == (
        Pending("letters", "recipe upper: False -> True"),
        Pending("lengths", "after letters", certain=False),
        Pending("summary", "after lengths", certain=False),
    )


def test_changed_input_is_named(workspace: Workspace, add: Callable, run: Callable) -> None:
    add(EXP)
    run(EXP)
    add(EXP, {"A01": "fish"})
    assert plan(workspace)[0] == Pending("letters", "input words changed")


def test_touched_input_is_no_reason(workspace: Workspace, add: Callable, run: Callable) -> None:
    add(EXP)
    run(EXP)
    add(EXP)
    assert plan(workspace) == ()


def test_lost_output_and_cut_off_publication_are_reasons(workspace: Workspace, add: Callable, run: Callable) -> None:
    add(EXP)
    run(EXP)
    workspace.output("lengths", experiment=EXP).unlink()
    assert plan(workspace)[0] == Pending("lengths", "output missing")
    journal = workspace.layout.journal("letters", experiment=EXP)
    journal.parent.mkdir(exist_ok=True)
    journal.write_text("{}")
    assert plan(workspace)[0] == Pending("letters", "its publication was cut off")


def test_failure_is_a_reason_until_a_run_has_cleared_it(workspace: Workspace, add: Callable, run: Callable) -> None:
    add(EXP)
    run(EXP)
    add(EXP, {"A01": "fail"})
    run(EXP)
    add(EXP)
    assert plan(workspace)[0].reason.startswith("failed: ")
    run(EXP)
    assert plan(workspace) == ()


def test_forced_step_runs_although_its_record_answers(workspace: Workspace, add: Callable, run: Callable) -> None:
    add(EXP)
    run(EXP)
    assert plan(workspace, forced=frozenset({"lengths"})) == (
        Pending("lengths", "forced"),
        Pending("summary", "after lengths", certain=False),
    )


def test_absent_required_input_is_told(workspace: Workspace, add: Callable) -> None:
    add(EXP, words=None)
    reason = plan(workspace)[0].reason
    assert reason.startswith("cannot run yet: ")
    assert f"{EXP}.txt" in reason


def test_broken_recipe_is_an_error_of_that_experiment(workspace: Workspace, add: Callable) -> None:
    add(EXP)
    recipe = workspace.layout.recipes(EXP)[1]
    recipe.parent.mkdir()
    recipe.write_text("[letters]\nuper = true\n")
    with pytest.raises(PermanentError, match="did you mean upper"):
        plan(workspace)
