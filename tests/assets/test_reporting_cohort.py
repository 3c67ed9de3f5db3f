"""The cohort's table, which has no partition, reported into an empty Dagster home by `morphseq reconcile`."""

from __future__ import annotations

import shutil
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.definitions.data_version import CachingStaleStatusResolver
from dagster._core.loader import LoadingContextForTest

import morphseq_dagster
from morphseq_dagster.build import build_definitions
from morphseq_dagster.cli import main
from morphseq_dagster.engine.planner.reconcile_actions import discard
from morphseq_dagster.engine.storage.hashing import hash_bytes
from morphseq_dagster.engine.workspace import Workspace
from morphseq_dagster.morphseq import PIPELINE
from morphseq_dagster.morphseq.pipeline import MORPHSEQ
from morphseq_dagster.settings.machine import load_settings
from tests.support.fabricated import fabricate_cohort, fabricate_experiment, fabricate_step

A, B = "20240418", "20240419"
FINAL, COHORT = dg.AssetKey("embryo_latents_final"), dg.AssetKey("cohort_final")
TEMPLATE = Path(morphseq_dagster.__file__).parent / "templates" / "dagster.yaml"


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    workspace = Workspace(tmp_path / "root", MORPHSEQ)
    for experiment in (A, B):
        fabricate_experiment(workspace, experiment)
    fabricate_cohort(workspace)
    return workspace


def report(workspace: Workspace, home: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    """Run the command against a home, which is made when it is not there."""
    if not home.exists():
        home.mkdir()
        shutil.copy(TEMPLATE, home)
    monkeypatch.setenv("DAGSTER_HOME", str(home))
    return main(["reconcile", "--report-to-dagster", "--data-root", str(workspace.data_root)])


def cohort_status(workspace: Workspace, instance: dg.DagsterInstance) -> str:
    """What Dagster itself says of the cohort."""
    graph = build_definitions(load_settings(data_root=workspace.data_root), pipeline=PIPELINE).resolve_asset_graph()
    resolver = CachingStaleStatusResolver(instance, graph, LoadingContextForTest(instance))
    return resolver.get_status(COHORT).value


def test_an_empty_home_learns_of_the_cohort_and_its_members(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert report(workspace, tmp_path / "home", monkeypatch) == 0
    assert f"reported {2 * len(MORPHSEQ.steps) + 1} artifacts" in capsys.readouterr().err
    with dg.DagsterInstance.get() as instance:
        assert set(instance.get_dynamic_partitions("experiment")) == {A, B}
        (event,) = instance.fetch_materializations(COHORT, limit=5).records
        assert event.partition_key is None
        assert event.asset_materialization is not None
        tags = event.asset_materialization.tags or {}
        assert tags["dagster/data_version"] == hash_bytes(b"cohort_final of cohort")
        newest = instance.fetch_materializations(FINAL, limit=1).records[0].storage_id
        assert int(tags["dagster/input_event_pointer/embryo_latents_final"]) == newest < event.storage_id
        assert cohort_status(workspace, instance) == "FRESH"
        assert instance.get_runs_count() == 0
    assert report(workspace, tmp_path / "home", monkeypatch) == 0
    assert f"reported 0 artifacts and 0 missing files to Dagster; {2 * len(MORPHSEQ.steps) + 1} were known" in (
        capsys.readouterr().err
    )


def test_a_cohort_older_than_its_members_is_stale_in_an_empty_home(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fabricate_step(workspace, MORPHSEQ.spec("embryo_latents_final"), experiment=B, content="another version")
    assert report(workspace, tmp_path / "home", monkeypatch) == 0
    with dg.DagsterInstance.get() as instance:
        assert cohort_status(workspace, instance) == "STALE"
    fabricate_cohort(workspace)
    assert report(workspace, tmp_path / "another", monkeypatch) == 0
    with dg.DagsterInstance.get() as instance:
        assert cohort_status(workspace, instance) == "FRESH"


def test_a_cohort_without_its_file_is_reported_as_gone(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    workspace.layout.primary("cohort_final", experiment="cohort").unlink()
    assert report(workspace, tmp_path / "home", monkeypatch) == 1, "a finding remains"
    told = capsys.readouterr()
    assert "1 missing files" in told.err
    assert "deleted" in told.out
    with dg.DagsterInstance.get() as instance:
        (event,) = instance.fetch_materializations(COHORT, limit=5).records
        assert event.asset_materialization is not None
        assert (event.asset_materialization.tags or {})["dagster/code_version"] == "file-missing"
    discard(workspace, workspace.layout.primary("cohort_final", experiment="cohort"))
    assert report(workspace, tmp_path / "home", monkeypatch) == 0
