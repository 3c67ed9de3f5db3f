"""Explanations: every cause with the file, the recipe or the time that it names, and what a run would cost."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from morphseq_dagster.engine.executors.execution import fail_request
from morphseq_dagster.engine.planner.explain import (
    Explanation,
    encode_explanation,
    explain_experiment,
    tell_cause,
)
from morphseq_dagster.engine.storage.hashing import hash_bytes
from morphseq_dagster.engine.storage.records import read_record
from morphseq_dagster.engine.workspace import Workspace
from morphseq_dagster.errors import PermanentError

EXP = "20240101"


@pytest.fixture
def done(workspace: Workspace, add: Callable, run: Callable) -> Workspace:
    add(EXP)
    run(EXP)
    return workspace


def explain(workspace: Workspace, step: str) -> Explanation:
    _, explained = explain_experiment(workspace, experiment=EXP)
    return next(e for e in explained if e.verdict.step == step)


def lines(explanation: Explanation) -> list[str]:
    return [line for cause in explanation.verdict.causes for line in tell_cause(cause, explanation=explanation)]


def test_changed_input_is_explained_with_both_hashes_and_its_file(done: Workspace) -> None:
    path = done.data_root / "words" / f"{EXP}.txt"
    old = hash_bytes(path.read_bytes())
    path.write_text("A01 whale\n")
    new = hash_bytes(path.read_bytes())
    found = explain(done, "letters")
    assert lines(found) == [
        f"input words changed ({old[:12]} -> {new[:12]})",
        f"  old: {old}",
        f"  new: {new}",
        f"  file: words/{EXP}.txt",
    ]
    manifest = f"letters/{EXP}/letters_manifest_{EXP}.json"
    assert lines(explain(done, "lengths")) == ["after letters", f"  file: {manifest}"]


def test_parameter_is_explained_with_the_recipe_that_sets_it(done: Workspace) -> None:
    recipe = done.layout.recipes(EXP)[1]
    recipe.parent.mkdir()
    recipe.write_text("[letters]\nupper = true\n")
    assert lines(explain(done, "letters")) == [
        "recipe upper: false -> true",
        "  old: false",
        "  new: true",
        f"  set in: {recipe}",
    ]


def test_failure_is_explained_with_its_time(done: Workspace) -> None:
    request = done.request(done.pipeline.spec("letters"), experiment=EXP)
    error = PermanentError(expected="a", found="b", where="c", remedy="d")
    fail_request(done.layout, request=request, error=error)
    found = explain(done, "letters")
    assert lines(found) == [f"failed: {error}", f"  at: {found.failed_at}"]
    assert found.failed_at.startswith("20")


def test_explanation_says_how_the_result_came_about_and_what_refreshing_costs(done: Workspace) -> None:
    record = read_record(done.layout, primary=done.output("lengths", experiment=EXP))
    assert record is not None
    fresh = encode_explanation(explain(done, "lengths"))
    assert (fresh["freshness"], fresh["causes"], fresh["cost"]["most_s"]) == ("fresh", [], 0.0)
    assert fresh["made"] == {
        "finished_at": record.finished_at,
        "run_id": record.run_id,
        "host": record.host,
        "place": "process",
        "seconds": record.seconds,
        "data_version": record.data_version,
        "origin": "computed",
    }
    (done.data_root / "words" / f"{EXP}.txt").write_text("A01 whale\n")
    found = explain(done, "letters")
    seconds = [explain(done, step).verdict.seconds or 0.0 for step in ("letters", "lengths", "summary")]
    assert found.cost.most_s == pytest.approx(sum(seconds))
    assert found.cost.least_s == pytest.approx(seconds[0]), "what comes after may come out equal"
    missing = encode_explanation(explain(done, "summary"))
    assert missing["cost"]["unknown_steps"] == 0


def test_step_without_a_result_has_made_nothing(workspace: Workspace, add: Callable) -> None:
    add(EXP)
    found = explain(workspace, "summary")
    assert (found.made.finished_at, found.made.seconds, found.failed_at) == ("", None, "")
    assert found.cost.unknown == 1
