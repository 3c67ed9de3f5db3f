from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import dagster as dg
import pytest

from morphseq_dagster.cli.pipeline import steps_of
from morphseq_dagster.engine.storage.records import Record, read_record
from morphseq_dagster.engine.workspace import Workspace
from morphseq_dagster.errors import PermanentError
from morphseq_dagster.morphseq.paths import raw_folder
from morphseq_dagster.morphseq.pipeline import MORPHSEQ

A, B, C = "20240101", "20240102", "20240101_extras"


def record(workspace: Workspace, experiment: str, step: str = "summary") -> Record | None:
    return read_record(workspace.layout, primary=workspace.output(step, experiment=experiment))


def runs(instance: dg.DagsterInstance) -> list[dg.DagsterRun]:
    return list(instance.get_runs())


def test_experiment_runs_through_the_pipeline_job_once(
    say: Callable, add: Callable, workspace: Workspace, instance: dg.DagsterInstance
) -> None:
    add(A)
    first = say("pipeline", "--experiments", A)
    assert first.code == 0, first.err
    assert "3 made" in first.err
    assert record(workspace, A) is not None
    (run,) = runs(instance)
    assert (run.job_name, run.tags["dagster/partition"], run.status.value) == ("pipeline", A, "SUCCESS")
    assert instance.get_dynamic_partitions("experiment") == [A]

    again = say("pipeline", "--experiments", A)
    assert (again.code, again.out) == (0, f"{A}: nothing to do\n")
    assert len(runs(instance)) == 1, "nothing to do starts no run"


def test_dry_run_gives_reasons_and_writes_nothing(
    say: Callable, add: Callable, listing: Callable, instance: dg.DagsterInstance
) -> None:
    add(A)
    before = listing()
    said = say("pipeline", "--experiments", A, "--dry-run")
    assert said.code == 0
    assert said.out.startswith(f"{A}: would run 3 of 3 steps")
    steps = [line.split()[:2] for line in said.out.splitlines() if line.startswith("  ")]
    assert [step for step, _ in steps] == ["letters", "lengths", "summary"]
    assert steps[0][1] == "missing"
    assert listing() == before
    assert runs(instance) == []


def test_unknown_experiments_end_the_call_before_anything_starts(
    say: Callable, add: Callable, listing: Callable, instance: dg.DagsterInstance
) -> None:
    add(A)
    before = listing()
    said = say("pipeline", "--experiments", f"{A},20240199,../{A},$(id)")
    assert said.code == 2
    for name in ("20240199", f"../{A}", "$(id)"):
        assert name in said.err
    assert "Traceback" not in said.err
    assert listing() == before
    assert runs(instance) == []


def test_failing_experiment_does_not_stop_the_others(say: Callable, add: Callable, workspace: Workspace) -> None:
    add(A, {"A01": "fail"})
    add(B)
    said = say("pipeline", "--experiments", f"{A},{B}")
    assert said.code == 1
    assert "letters               FAILED" in said.err
    assert f"{A}: 1 failed, 2 not tried" in said.err
    assert "Traceback" not in said.err
    assert record(workspace, A) is None
    assert record(workspace, B) is not None


def test_broken_recipe_fails_its_own_experiment_only(say: Callable, add: Callable, workspace: Workspace) -> None:
    add(A)
    add(B)
    recipe = workspace.layout.recipes(A)[1]
    recipe.parent.mkdir()
    recipe.write_text("[letters]\nuper = true\n")
    said = say("pipeline")
    assert said.code == 1
    assert "did you mean upper?" in said.err
    assert record(workspace, B) is not None


def test_refused_experiment_that_was_named_counts_as_failed(say: Callable, add: Callable, workspace: Workspace) -> None:
    add(A)
    (raw_folder(workspace.layout, "YX1", experiment=B)).mkdir(parents=True)
    (raw_folder(workspace.layout, "YX1", experiment=B) / "notes.txt").touch()
    said = say("pipeline", "--experiments", f"{A},{B}")
    assert said.code == 1
    assert f"{B}: refused, exactly one .nd2" in said.err
    assert record(workspace, A) is not None


def test_all_takes_what_is_ready_and_names_what_is_left_out(say: Callable, add: Callable, workspace: Workspace) -> None:
    add(A)
    add(B, ready=False)
    said = say("pipeline")
    assert said.code == 0
    assert f"{B}: left out, files arrived" in said.out
    assert (record(workspace, A) is not None, record(workspace, B) is not None) == (True, False)
    assert say("pipeline", "--experiments", B).code == 0, "a named one is not waited for"
    assert record(workspace, B) is not None


def test_name_selects_no_other_that_begins_like_it(say: Callable, add: Callable, workspace: Workspace) -> None:
    add(A)
    add(C)
    assert say("pipeline", "--experiments", A).code == 0
    assert record(workspace, C) is None


@pytest.mark.parametrize(
    ("options", "chosen"),
    [
        (["--later-than", "20240101"], ["20240102", "20240103"]),
        (["--earlier-than", "20240103"], ["20240101", "20240102"]),
        (["--later-than", "20240101", "--earlier-than", "20240103"], ["20240102"]),
        (["--later-than", "20250101"], []),
    ],
)
def test_dates_leave_out_their_own_day(say: Callable, add: Callable, options: list[str], chosen: list[str]) -> None:
    for name in ("20240101", "20240102", "20240103"):
        add(name)
    said = say("pipeline", "--dry-run", *options)
    assert said.code == 0
    assert [line.partition(":")[0] for line in said.out.splitlines() if ": would run" in line] == chosen


@pytest.mark.parametrize("text", ["2024", "yesterday", "2024-01-01", ""])
def test_text_that_is_no_date_is_refused(say: Callable, text: str) -> None:
    assert say("pipeline", "--later-than", text).code == 2


def test_force_wants_names_and_computes_again(say: Callable, add: Callable, workspace: Workspace) -> None:
    add(A)
    assert say("pipeline").code == 0
    first = record(workspace, A, "letters")
    assert say("pipeline", "--force").code == 2
    said = say("pipeline", "--force", "--experiments", "all")
    assert said.code == 0
    assert "3 made" in said.err
    second = record(workspace, A, "letters")
    assert first is not None
    assert second is not None
    assert second.finished_at > first.finished_at
    assert second.data_version == first.data_version


def test_stage_that_a_pipeline_lacks_is_refused(say: Callable, add: Callable) -> None:
    add(A)
    assert say("pipeline", "sam2", "--experiments", A).code == 2


def test_actions_run_their_own_steps_and_all_before() -> None:
    own, steps = steps_of("build06", pipeline=MORPHSEQ)
    assert own == {"latents", "embryo_latents_final"}
    assert steps == {spec.name for spec in MORPHSEQ.steps}
    own, steps = steps_of("sam2", pipeline=MORPHSEQ)
    assert "sam2_metadata" in own
    assert "built_metadata" in steps - own
    assert not steps & {"qc_masks", "embryo_metadata", "latents"}
    assert steps_of("e2e", pipeline=MORPHSEQ)[0] == {spec.name for spec in MORPHSEQ.steps}
    with pytest.raises(PermanentError, match="one of e2e, build01; found 'build04'"):
        steps_of("build04", pipeline=replace(MORPHSEQ, steps=MORPHSEQ.steps[:3], final=""))


def test_history_may_be_left_out(say: Callable, add: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DAGSTER_HOME")
    add(A)
    said = say("pipeline")
    assert said.code == 0
    assert "DAGSTER_HOME is not set" in said.err


def test_dagster_home_of_the_env_file_is_used(
    say: Callable, add: Callable, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, instance: dg.DagsterInstance
) -> None:
    monkeypatch.delenv("DAGSTER_HOME")
    (tmp_path / ".env").write_text(f'DAGSTER_HOME="${{DAGSTER_HOME:-{tmp_path}/home}}"\n')
    add(A)
    assert say("pipeline").code == 0
    assert len(runs(instance)) == 1


@pytest.mark.parametrize("home", ["relative", "/nowhere/at/all"])
def test_wrong_dagster_home_is_told_without_a_traceback(
    say: Callable, add: Callable, monkeypatch: pytest.MonkeyPatch, home: str
) -> None:
    monkeypatch.setenv("DAGSTER_HOME", home)
    add(A)
    said = say("pipeline")
    assert said.code == 1
    assert home in said.err
    assert "remedy" in said.err


def test_model_name_is_checked_and_not_written_by_a_dry_run(
    say: Callable, add: Callable, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MORPHSEQ_PIPELINE")
    add(A)
    recipe = workspace.layout.recipes(A)[1]
    assert say("pipeline", "--experiments", A, "--model-name", "nobody").code == 2
    said = say("pipeline", "--experiments", A, "--model-name", "dct_100", "--dry-run")
    assert said.code == 0
    assert f"{recipe}: latents.model would become 'dct_100'" in said.out
    assert not recipe.exists()


def test_model_name_is_written_to_the_recipes_of_these_experiments(
    say: Callable, add: Callable, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MORPHSEQ_PIPELINE")
    add(A)
    add(B)
    said = say("pipeline", "build01", "--experiments", A, "--model-name", "dct_100")
    assert "latents.model = 'dct_100' written" in said.out
    assert workspace.layout.recipes(A)[1].read_text() == '[latents]\nmodel = "dct_100"\n'
    assert not workspace.layout.recipes(B)[1].exists()
