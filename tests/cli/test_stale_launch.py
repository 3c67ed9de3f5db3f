"""`morphseq stale --launch` on toy experiments, through real runs of a real Dagster home."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import dagster as dg

from morphseq_dagster.engine.storage.records import read_record
from morphseq_dagster.engine.storage.step_locks import hold_lock
from morphseq_dagster.engine.workspace import Workspace
from morphseq_dagster.morphseq.paths import raw_folder
from morphseq_dagster.testing.chain import write_words

A, B, C, D = "20240101", "20240102", "20240103", "20240104"


def stale(say: Callable) -> dict[str, tuple[str, ...]]:
    """Steps to refresh, by experiment."""
    plans: list[Any] = json.loads(say("stale", "--format", "json").out)["experiments"]
    return {plan["experiment"]: tuple(step["step"] for step in plan["steps"] if step["runs"]) for plan in plans}


def runs_of(instance: dg.DagsterInstance, experiment: str) -> list[dg.DagsterRun]:
    filters = dg.RunsFilter(tags={"dagster/partition": experiment})
    return [record.dagster_run for record in instance.get_run_records(filters)]


def version(workspace: Workspace, experiment: str) -> str:
    record = read_record(workspace.layout, primary=workspace.output("letters", experiment=experiment))
    assert record is not None
    return record.data_version


def test_one_launch_mends_all_that_is_stale_and_nothing_else(
    say: Callable, add: Callable, workspace: Workspace, instance: dg.DagsterInstance
) -> None:
    for experiment in (A, B, C):
        add(experiment)
    assert say("pipeline").code == 0
    write_words(workspace.layout, A, words={"A01": "whale"})
    workspace.output("summary", experiment=B).unlink()
    assert stale(say) == {A: ("letters", "lengths", "summary"), B: ("summary",)}

    said = say("stale", "--launch")
    assert said.code == 0, said.out + said.err
    assert stale(say) == {}
    assert [len(runs_of(instance, experiment)) for experiment in (A, B, C)] == [2, 2, 1]
    launched = {experiment: runs_of(instance, experiment)[0] for experiment in (A, B)}
    assert {run.status for run in launched.values()} == {dg.DagsterRunStatus.SUCCESS}
    assert launched[B].asset_selection == {dg.AssetKey("summary")}
    summary = json.loads(workspace.output("summary", experiment=A).read_bytes())
    assert (summary["wells"], summary["letters"]) == (1, 5)

    again = say("stale", "--launch")
    assert (again.code, "nothing to launch" in again.out) == (0, True)
    assert [len(runs_of(instance, experiment)) for experiment in (A, B, C)] == [2, 2, 1]


def test_experiments_at_work_are_left_out_and_have_their_turn_later(
    say: Callable, add: Callable, workspace: Workspace, instance: dg.DagsterInstance
) -> None:
    for experiment in (A, B, C, D):
        add(experiment)
    assert say("pipeline").code == 0
    recipe = workspace.layout.recipes("default")[0]
    recipe.parent.mkdir()
    recipe.write_text("[letters]\nupper = true\n")
    before = {experiment: version(workspace, experiment) for experiment in (A, B, C, D)}

    @dg.job
    def somebody_elses() -> None:
        pass

    tags = {"dagster/partition": B}
    run = instance.create_run_for_job(somebody_elses, tags=tags, status=dg.DagsterRunStatus.STARTED)
    add(D, {"A01": "fin"}, ready=False)
    (raw_folder(workspace.layout, "Keyence", experiment=D) / "acquisition_complete").unlink()
    with hold_lock(workspace.layout.lock("summary", experiment=C), run_id="x"):
        said = say("stale", "--launch")
    assert said.code == 0, said.out + said.err
    assert f"{B}: left out, run {run.run_id} is started" in said.out + said.err
    assert "at work" in said.out
    changed = {experiment for experiment in before if version(workspace, experiment) != before[experiment]}
    assert changed == {A}

    instance.report_run_canceled(run)
    assert say("stale", "--launch").code == 0
    changed = {experiment for experiment in before if version(workspace, experiment) != before[experiment]}
    assert changed == {A, B, C}, "the files of the fourth still arrive"
    assert stale(say) == {}


def test_failing_experiment_does_not_hold_up_the_others_and_tells_by_the_exit_code(
    say: Callable, add: Callable, workspace: Workspace
) -> None:
    for experiment in (A, B):
        add(experiment)
    assert say("pipeline").code == 0
    write_words(workspace.layout, A, words={"A01": "fail"})
    write_words(workspace.layout, B, words={"A01": "fin"})
    assert say("stale", "--launch").code == 1
    assert stale(say).keys() == {A}
    said = say("stale", "--launch")
    assert "nothing to launch" in said.out, "the same reasons fail in the same way"
    assert f"{A}:" in said.out
    assert "left to you" in said.out
