"""A workflow with other keys, paths, columns and final table goes through the same engine: storage, planner, status."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from morphseq_dagster.engine.cohort import read_manifest
from morphseq_dagster.engine.layout import COHORT
from morphseq_dagster.engine.locked_step import finish, lock_step
from morphseq_dagster.engine.planner.explain import explain_experiment
from morphseq_dagster.engine.planner.inventory import list_artifacts, locate
from morphseq_dagster.engine.planner.plan import plan_experiments
from morphseq_dagster.engine.planner.reconcile import Kind, reconcile
from morphseq_dagster.engine.planner.reconcile_actions import discard, keep
from morphseq_dagster.engine.planner.retirement import mark_retired, read_retired, refuse_retirement
from morphseq_dagster.engine.planner.status import encode_status, read_status
from morphseq_dagster.engine.workspace import Workspace
from morphseq_dagster.errors import ContractError, PermanentError
from morphseq_dagster.testing.chain import run_chain
from morphseq_dagster.testing.training import TRAINING, conditions_file, observations_file
from tests.second_workflow.conftest import CNN, MLP

STEPS = ["split", "fits", "scores"]


def computed(study: Workspace, condition: str) -> list[str]:
    return [step for step, (_, stood) in run_chain(study, condition).items() if not stood]


def pending(study: Workspace, condition: str) -> list[str]:
    (plan,) = plan_experiments(study, experiments=[condition])
    return list(plan.closure)


def test_artifacts_lie_where_this_workflow_says_and_nothing_is_done_twice(study: Workspace) -> None:
    assert computed(study, CNN) == STEPS
    root = study.data_root
    assert (root / "prepared" / f"split of {CNN}.json").is_file()
    assert sorted(path.name for path in (root / "trained" / CNN).glob("*.bin")) == [
        "fold1.bin",
        "fold2.bin",
        "fold3.bin",
    ]
    table = pd.read_csv(root / "results" / f"scores of {CNN}.csv")
    assert list(table["condition"].unique()) == [CNN]
    assert computed(study, CNN) == []
    assert not (root / "raw_image_data").exists()
    assert not (root / "metadata").exists()


def test_conditions_do_not_reach_each_other(study: Workspace) -> None:
    computed(study, CNN)
    before = {path: path.read_bytes() for path in study.data_root.rglob("*") if path.is_file()}
    assert computed(study, MLP) == STEPS
    assert {path: path.read_bytes() for path in before} == before
    (study.data_root / "recipes").mkdir()
    (study.data_root / "recipes" / f"{MLP}.toml").write_text("[fits]\nrounds = 7\n")
    assert pending(study, CNN) == []
    assert pending(study, MLP) == ["fits", "scores"]


@pytest.mark.parametrize("key", ["20240418", "cnn|seed=x", "../cnn|seed=3", "cohort", ""])
def test_what_is_no_key_of_this_workflow_is_refused_before_anything_is_written(study: Workspace, key: str) -> None:
    with pytest.raises(PermanentError, match="a condition is a model") as refused:
        run_chain(study, key)
    assert "study/conditions.txt" in refused.value.remedy
    assert not study.layout.private.exists()


def test_plan_and_explanation_name_what_changed(study: Workspace) -> None:
    computed(study, CNN)
    observations_file(study.layout, CNN).write_text("other\n")
    assert pending(study, CNN) == STEPS
    _, told = explain_experiment(study, experiment=CNN)
    reasons = {entry.verdict.step: entry.verdict.reason for entry in told}
    assert "input observations changed" in reasons["split"]
    assert reasons["fits"] == "after split"


def test_status_has_the_columns_of_this_workflow(study: Workspace) -> None:
    computed(study, CNN)
    status = read_status(study)
    assert status.columns == ("SPLIT", "FITS", "SCORES")
    values = json.loads(json.dumps(encode_status(status, data_root=str(study.data_root))))
    assert values["experiments"][CNN]["columns"] == {"SPLIT": "ok", "FITS": "ok", "SCORES": "ok"}
    assert values["experiments"][MLP]["columns"] == {"SPLIT": "missing", "FITS": "missing", "SCORES": "missing"}
    conditions_file(study.layout).write_text(f"{CNN}\ncnn|seed=three\n")
    assert read_status(study).refused == (
        ("cnn|seed=three", "a condition is a model (cnn or mlp), `|seed=` and a number"),
    )


def test_every_artifact_is_found_again_by_its_path(study: Workspace) -> None:
    computed(study, CNN)
    found = {(entry.step, entry.experiment) for entry in list_artifacts(study)}
    assert found == {(step, CNN) for step in STEPS}
    picture = study.data_root / "trained" / CNN / "fold2.bin"
    located = locate(study, picture)
    assert located is not None
    assert (located.step, located.experiment) == ("fits", CNN)
    assert locate(study, study.data_root / "prepared" / "split of 20240418.json") is None


def test_edits_are_found_and_kept_or_discarded(study: Workspace) -> None:
    computed(study, CNN)
    scores = study.output("scores", experiment=CNN)
    scores.write_bytes(scores.read_bytes().replace(b"fold1", b"fold9"))
    (finding,) = reconcile(study).remaining
    assert (finding.kind, finding.experiment, finding.step) == (Kind.EDITED, CNN, "scores")
    keep(study, scores)
    assert reconcile(study).remaining == ()
    assert pending(study, CNN) == []
    discard(study, scores)
    assert pending(study, CNN) == ["scores"]
    assert computed(study, CNN) == ["scores"]


def test_an_edit_that_breaks_the_contract_cannot_be_kept(study: Workspace) -> None:
    computed(study, CNN)
    scores = study.output("scores", experiment=CNN)
    scores.write_text("condition,fold,score\n" + f"{CNN},fold1,7\n")
    with pytest.raises(ContractError, match="score"):
        keep(study, scores)


def test_the_cohort_joins_the_final_tables_and_names_who_is_left_out(study: Workspace) -> None:
    computed(study, CNN)
    computed(study, MLP)
    spec = TRAINING.spec("comparison")

    def join() -> tuple[bool, int]:
        with lock_step(spec, workspace=study, experiment=COHORT, run_id="join") as step:
            record = step.cached or finish(study.layout, outcome=step.run())
            return step.cached is not None, record.counts["conditions"]

    assert join() == (False, 2)
    assert join() == (True, 2)
    table = pd.read_csv(study.data_root / "results" / "comparison.csv")
    assert sorted(table["condition"].unique()) == [CNN, MLP]
    study.output("scores", experiment=MLP).write_text("cut")
    assert [member.experiment for member in read_manifest(TRAINING, layout=study.layout).excluded] == [MLP]
    assert join() == (False, 1)


def test_a_condition_that_is_crossed_out_can_be_retired_and_comes_back_with_its_line(study: Workspace) -> None:
    computed(study, CNN)
    with pytest.raises(PermanentError, match="is there"):
        refuse_retirement(study, experiment=CNN)
    conditions_file(study.layout).write_text(f"{MLP}\n")
    refuse_retirement(study, experiment=CNN)
    mark_retired(study.layout, experiment=CNN, host="here", records=3)
    assert read_retired(study) == {CNN}
    conditions_file(study.layout).write_text(f"{CNN}\n{MLP}\n")
    assert read_retired(study) == frozenset()


def test_recipes_of_one_condition_are_files_of_its_name(study: Workspace, tmp_path: Path) -> None:
    del tmp_path
    (study.data_root / "recipes").mkdir()
    (study.data_root / "recipes" / f"{CNN}.toml").write_text("[fits]\nroundz = 7\n")
    with pytest.raises(PermanentError, match="did you mean rounds"):
        study.recipe(CNN)
    assert study.recipe(MLP).slice("fits")["rounds"] == 100
