"""Artifacts that are gone with their records are found by the records of what was made from them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from morphseq_dagster.engine.planner.reconcile import Finding, Kind, reconcile
from morphseq_dagster.engine.planner.reconcile_actions import discard
from morphseq_dagster.engine.planner.retirement import mark_retired
from morphseq_dagster.engine.storage.records import read_record
from morphseq_dagster.engine.storage.step_locks import hold_lock
from morphseq_dagster.engine.workspace import Workspace
from morphseq_dagster.errors import PermanentError
from morphseq_dagster.morphseq.paths import raw_folder
from morphseq_dagster.morphseq.pipeline import MORPHSEQ
from morphseq_dagster.testing.chain import open_toy, run_chain, write_words
from tests.support.fabricated import fabricate_cohort, fabricate_experiment

A, B = "20240418", "20240419"


@pytest.fixture
def toy(tmp_path: Path) -> Workspace:
    workspace = open_toy(tmp_path / "root")
    for experiment in (A, B):
        write_words(workspace.layout, experiment, words={"A01": "fish"})
        run_chain(workspace, experiment)
    return workspace


def remaining(workspace: Workspace, experiments: tuple[str, ...] | None = None) -> list[Finding]:
    return list(reconcile(workspace, experiments=experiments).remaining)


def test_deleted_folder_is_found_by_what_was_made_from_it(toy: Workspace) -> None:
    record = read_record(toy.layout, primary=toy.output("letters", experiment=A))
    assert record is not None
    shutil.rmtree(toy.layout.folders("letters", experiment=A)[0])
    (finding,) = remaining(toy)
    assert (finding.kind, finding.experiment, finding.step) == (Kind.DELETED, A, "letters")
    assert finding.path == record.output.path
    assert f"lengths was made from version {record.data_version[:12]}" in finding.detail
    assert remaining(toy, (B,)) == []
    assert [f.step for f in remaining(toy, (A,))] == ["letters"]
    run_chain(toy, A)
    assert remaining(toy) == []


def test_nothing_is_claimed_where_no_record_is_left_that_proves_it(toy: Workspace) -> None:
    shutil.rmtree(toy.data_root / "tables")
    assert remaining(toy) == []


def test_what_is_there_half_or_at_work_is_no_such_finding(toy: Workspace) -> None:
    path = toy.output("lengths", experiment=A)
    toy.layout.record(path).unlink()
    assert [(f.kind, f.step) for f in remaining(toy)] == [(Kind.NO_RECORD, "lengths")]
    path.unlink()
    with hold_lock(toy.layout.lock("lengths", experiment=A), run_id="r"):
        assert remaining(toy) == []
    assert [(f.kind, f.step) for f in remaining(toy)] == [(Kind.DELETED, "lengths")]
    with pytest.raises(PermanentError, match="nothing needs to be done"):
        discard(toy, path)


def test_damaged_witness_does_not_end_the_report(toy: Workspace) -> None:
    shutil.rmtree(toy.layout.folders("letters", experiment=A)[0])
    toy.layout.record(toy.output("lengths", experiment=A)).write_text("{")
    assert [f.kind for f in remaining(toy)] == [Kind.UNREADABLE_RECORD]


def test_final_tables_are_proven_by_the_cohort_until_their_experiment_is_retired(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "root", MORPHSEQ)
    layout = workspace.layout
    for experiment in (A, B):
        fabricate_experiment(workspace, experiment)
    final = workspace.output("embryo_latents_final", experiment=A)
    fabricate_cohort(workspace)
    assert remaining(workspace) == []
    shutil.rmtree(final.parent)
    assert [(f.experiment, f.step) for f in remaining(workspace)] == [
        (A, "embryo_latents_final"),
        (B, "embryo_latents_final"),
    ]
    assert "cohort_final was made from" in remaining(workspace, (A,))[0].detail
    mark_retired(layout, experiment=A, host="h", records=1)
    shutil.rmtree(raw_folder(layout, "Frames", experiment=A))
    assert [f.experiment for f in remaining(workspace)] == [B]
