"""The job `materialize_stale` with the project's own steps, in a run of a real Dagster home."""

from __future__ import annotations

import json
import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

import morphseq_dagster
from morphseq_dagster.assets.freshness import CHECK, STALE_JOB
from morphseq_dagster.build import PIPELINE_JOB, build_definitions
from morphseq_dagster.engine.planner.plan import plan_experiments
from morphseq_dagster.engine.planner.rules import BRAKE
from morphseq_dagster.engine.storage.records import Record, read_record
from morphseq_dagster.engine.workspace import Workspace
from morphseq_dagster.morphseq import PIPELINE
from morphseq_dagster.morphseq.paths import raw_folder
from morphseq_dagster.morphseq.pipeline import MORPHSEQ
from morphseq_dagster.partitions import BULK_JOB, bulk_config, register_keys
from morphseq_dagster.settings.machine import load_settings
from tests.support.experiments import FRAMES_EXPERIMENT, open_data_root
from tests.support.fabricated import fabricate_experiment, name_experiments

BUSY, FRESH = "20240418_busy", "20240418_fresh"
TEMPLATE = Path(morphseq_dagster.__file__).parent / "templates" / "dagster.yaml"


@pytest.fixture
def workspace(frames_root: Path) -> Workspace:
    """A real finished experiment with a new threshold; beside it one at work with it, and one that overrides it."""
    workspace = open_data_root(frames_root)
    (raw_folder(workspace.layout, "Frames", experiment=FRAMES_EXPERIMENT) / "acquisition_complete").touch()
    for experiment in (BUSY, FRESH):
        fabricate_experiment(workspace, experiment)
    recipes = workspace.layout.recipes("default")[0].parent
    recipes.mkdir(exist_ok=True)
    (recipes / "default.toml").write_text("[gdino_detections]\nconfidence_threshold = 0.5\n")
    (recipes / f"{FRESH}.toml").write_text("[gdino_detections]\nconfidence_threshold = 0.45\n")
    return workspace


@pytest.fixture
def instance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dg.DagsterInstance]:
    home = tmp_path / "home"
    home.mkdir()
    shutil.copy(TEMPLATE, home)
    monkeypatch.setenv("DAGSTER_HOME", str(home))
    with dg.DagsterInstance.get() as instance:
        register_keys(instance, [FRAMES_EXPERIMENT, BUSY, FRESH], pipeline=MORPHSEQ)
        yield instance


def launch(instance: dg.DagsterInstance, workspace: Workspace, **config: object) -> dg.ExecuteInProcessResult:
    """Press the button."""
    definitions = build_definitions(load_settings(data_root=workspace.data_root), pipeline=PIPELINE)
    return definitions.resolve_job_def(STALE_JOB).execute_in_process(
        instance=instance, run_config={"ops": {"mend": {"config": config}}}, raise_on_error=False
    )


def closures(workspace: Workspace) -> dict[str, tuple[str, ...]]:
    plans = plan_experiments(workspace, experiments=[FRAMES_EXPERIMENT, BUSY, FRESH])
    return {plan.experiment: plan.closure for plan in plans}


def records(workspace: Workspace, experiment: str) -> dict[str, Record | None]:
    return {
        spec.name: read_record(workspace.layout, primary=workspace.output(spec, experiment=experiment))
        for spec in MORPHSEQ.steps
    }


def test_one_launch_mends_what_is_stale_and_leaves_out_who_is_at_work(
    workspace: Workspace, instance: dg.DagsterInstance
) -> None:
    @dg.job
    def somebody_elses() -> None:
        pass

    instance.create_run_for_job(somebody_elses, tags={"dagster/partition": BUSY}, status=dg.DagsterRunStatus.STARTED)
    stale = tuple(s.name for s in MORPHSEQ.steps if s.name in MORPHSEQ.descendants({"gdino_detections"}))
    assert closures(workspace) == {FRAMES_EXPERIMENT: stale, BUSY: stale, FRESH: ()}
    before = {experiment: records(workspace, experiment) for experiment in (FRAMES_EXPERIMENT, BUSY, FRESH)}

    shown = launch(instance, workspace, dry_run=True)
    assert shown.success
    assert closures(workspace)[FRAMES_EXPERIMENT] == stale, "a dry run launches nothing"

    result = launch(instance, workspace)
    assert result.success
    assert closures(workspace) == {FRAMES_EXPERIMENT: (), BUSY: stale, FRESH: ()}
    after = records(workspace, FRAMES_EXPERIMENT)
    # The table of changes: the masks come out equal, there the chain ends.
    computed = [name for name, record in after.items() if record != before[FRAMES_EXPERIMENT][name]]
    assert computed == ["gdino_detections", "sam2_tracks"]
    assert json.loads(workspace.output("gdino_detections", experiment=FRAMES_EXPERIMENT).read_bytes())
    assert [records(workspace, name) == before[name] for name in (BUSY, FRESH)] == [True, True]

    mended = instance.get_runs(dg.RunsFilter(tags={"dagster/partition": FRAMES_EXPERIMENT}))
    assert [run.status for run in mended] == [dg.DagsterRunStatus.SUCCESS], "one run per experiment"
    assert instance.get_runs_count(dg.RunsFilter(tags={"dagster/partition": BUSY})) == 1
    (check,) = instance.event_log_storage.get_asset_check_execution_history(
        dg.AssetCheckKey(dg.AssetKey(MORPHSEQ.final), CHECK), limit=1
    )
    assert check.event is not None
    evaluation = check.event.dagster_event.asset_check_evaluation_data  # type: ignore[union-attr]
    assert evaluation.passed

    again = launch(instance, workspace)
    assert again.success
    assert len(instance.get_runs(dg.RunsFilter(tags={"dagster/partition": FRAMES_EXPERIMENT}))) == 1


def test_names_that_nobody_registered_are_refused_before_anything_runs(
    workspace: Workspace, instance: dg.DagsterInstance
) -> None:
    result = launch(instance, workspace, experiments=[FRAMES_EXPERIMENT, "20990101"])
    assert not result.success
    assert instance.get_runs_count(dg.RunsFilter(tags={"dagster/partition": FRAMES_EXPERIMENT})) == 0


def test_many_that_wait_for_a_cluster_go_as_one_run(
    tmp_path: Path, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MORPHSEQ_PLACES", json.dumps({"snips": "slurm", "slurm": {}}))
    many = open_data_root(tmp_path / "many")
    names = name_experiments(9)
    for name in names:
        fabricate_experiment(many, name)
    register_keys(instance, names, pipeline=MORPHSEQ)
    recipe = many.layout.recipes("default")[0]
    recipe.parent.mkdir()
    recipe.write_text("[gdino_detections]\nconfidence_threshold = 0.5\n")

    assert launch(instance, many, experiments=list(names), dry_run=True).success
    assert launch(instance, many, experiments=list(names[:8]), dry_run=True).success
    said = [[entry.user_message for entry in instance.all_logs(run.run_id)] for run in instance.get_runs()]
    assert [[line for line in lines if "to refresh" in line] for lines in said] == [
        ["8 experiments to refresh, one run each"],
        ["9 experiments to refresh, one run over all"],
    ]

    # Nothing reaches the cluster: what was fabricated cannot be read by the steps before.
    result = launch(instance, many, experiments=list(names))
    assert not result.success
    (bulk,) = instance.get_runs(dg.RunsFilter(job_name=BULK_JOB))
    assert (bulk.status, bulk.tags["morphseq/stale"]) == (dg.DagsterRunStatus.FAILURE, "9 experiments")
    assert bulk.run_config == bulk_config(names, automatic=True)
    assert instance.get_runs_count(dg.RunsFilter(job_name=PIPELINE_JOB)) == 0
    (failed,) = [event for event in result.all_events if event.is_step_failure]
    data = failed.step_failure_data.user_failure_data
    assert data is not None
    assert data.description == (
        f"9 of 9 experiments failed: {', '.join(names)}; the others are done; run {bulk.run_id} has the reasons"
    )

    # What keeps failing in the same way is left to you in this way too.
    for _ in range(BRAKE - 1):
        assert not launch(instance, many, experiments=list(names)).success
    assert launch(instance, many, experiments=list(names)).success
    assert instance.get_runs_count(dg.RunsFilter(job_name=BULK_JOB)) == BRAKE


def test_interrupted_launch_cancels_its_run_and_begins_no_other(
    workspace: Workspace, instance: dg.DagsterInstance
) -> None:
    later = "20260101_later"
    (workspace.layout.recipes("default")[0]).unlink()
    fabricate_experiment(workspace, later)
    (workspace.layout.recipes("default")[0]).write_text("[gdino_detections]\nconfidence_threshold = 0.5\n")
    register_keys(instance, [later], pipeline=MORPHSEQ)
    claims = workspace.layout.lock("letters", experiment=FRAMES_EXPERIMENT).parent

    def interrupt() -> None:
        deadline = time.monotonic() + 60
        while not list(claims.glob(f"{FRAMES_EXPERIMENT}.*")) and time.monotonic() < deadline:
            time.sleep(0.002)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    result = launch(instance, workspace, experiments=[FRAMES_EXPERIMENT, later])
    thread.join()
    assert not result.success
    (run,) = instance.get_runs(dg.RunsFilter(job_name=PIPELINE_JOB))
    assert (run.tags["dagster/partition"], run.status) == (FRAMES_EXPERIMENT, dg.DagsterRunStatus.CANCELED)
    assert not list(claims.glob("*.json"))
    assert closures(workspace)[FRAMES_EXPERIMENT] != ()
