from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.definitions.data_version import CachingStaleStatusResolver
from dagster._core.loader import LoadingContextForTest

from morphseq_dagster.assets.reporting import (
    remove_partition,
    report_records,
)
from morphseq_dagster.build import PIPELINE_JOB, build_definitions
from morphseq_dagster.engine.layout import RECORD_SUFFIX
from morphseq_dagster.engine.planner.reconcile_actions import keep
from morphseq_dagster.engine.planner.retirement import mark_retired, read_retired, refuse_retirement
from morphseq_dagster.engine.storage.records import read_record
from morphseq_dagster.engine.storage.step_locks import hold_lock
from morphseq_dagster.engine.workspace import Workspace
from morphseq_dagster.errors import PermanentError, TransientError
from morphseq_dagster.morphseq.paths import raw_folder
from morphseq_dagster.partitions import BULK_JOB, bulk_config, find_runs_in_flight
from morphseq_dagster.settings.machine import load_settings
from morphseq_dagster.testing.chain import TOY, open_toy, run_chain, write_words
from morphseq_dagster.testing.toy import TOY_PIPELINE

A, B = "20240418", "20240419_x"
STEPS = ("letters", "lengths", "summary")


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    workspace = open_toy(tmp_path / "root")
    for name, word in ((A, "fish"), (B, "embryo")):
        write_words(workspace.layout, name, words={"A01": word, "A02": "egg"})
        run_chain(workspace, name)
    return workspace


@pytest.fixture
def definitions(workspace: Workspace) -> dg.Definitions:
    return build_definitions(load_settings(data_root=workspace.data_root), pipeline=TOY)


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    with dg.instance_for_test(temp_dir=str(tmp_path)) as instance:
        yield instance


def report(instance: dg.DagsterInstance, definitions: dg.Definitions, workspace: Workspace) -> Any:  # noqa: ANN401
    return report_records(instance, graph=definitions.resolve_asset_graph(), workspace=workspace)


def statuses(instance: dg.DagsterInstance, definitions: dg.Definitions, experiment: str) -> dict[str, str]:
    """What Dagster itself says of each partition."""
    graph = definitions.resolve_asset_graph()
    resolver = CachingStaleStatusResolver(instance, graph, LoadingContextForTest(instance))
    return {step: resolver.get_status(dg.AssetKey(step), experiment).value for step in STEPS}


def test_an_empty_home_learns_everything_and_agrees(
    instance: dg.DagsterInstance, definitions: dg.Definitions, workspace: Workspace
) -> None:
    before = {p: p.stat().st_mtime_ns for p in workspace.data_root.rglob("*")}
    told = report(instance, definitions, workspace)
    assert (told.reported, told.tombstones, told.known, told.registered) == (6, 0, 0, 2)
    assert set(instance.get_dynamic_partitions("experiment")) == {A, B}
    for name in (A, B):
        assert statuses(instance, definitions, name) == dict.fromkeys(STEPS, "FRESH")
    assert {p: p.stat().st_mtime_ns for p in workspace.data_root.rglob("*")} == before
    assert instance.get_runs_count() == 0


def test_events_carry_version_code_inputs_and_origin(
    instance: dg.DagsterInstance, definitions: dg.Definitions, workspace: Workspace
) -> None:
    report(instance, definitions, workspace)
    record = read_record(workspace.layout, primary=workspace.output("lengths", experiment=A))
    event = instance.fetch_materializations(
        dg.AssetRecordsFilter(dg.AssetKey("lengths"), asset_partitions=[A]), limit=1
    ).records[0]
    assert record is not None
    assert event.asset_materialization is not None
    tags = event.asset_materialization.tags or {}
    assert tags["dagster/data_version"] == record.data_version
    assert tags["dagster/code_version"] == "1"
    assert tags["morphseq/origin"] == "computed"
    assert tags["morphseq/in.letters"] == str(record.inputs[0].sha256)[:32]
    assert int(tags["dagster/input_event_pointer/letters"]) < event.storage_id


def test_a_second_report_tells_nothing_new_and_a_partial_one_is_finished(
    instance: dg.DagsterInstance, definitions: dg.Definitions, workspace: Workspace
) -> None:
    graph = definitions.resolve_asset_graph()
    calls: list[int] = []

    def stop(done: int, _: int) -> None:
        calls.append(done)
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        report_records(instance, graph=graph, workspace=workspace, on_progress=stop)
    told = report(instance, definitions, workspace)
    assert (told.reported, told.known) == (2, 4)
    again = report(instance, definitions, workspace)
    assert (again.reported, again.known, again.registered) == (0, 6, 0)
    for name in (A, B):
        assert statuses(instance, definitions, name) == dict.fromkeys(STEPS, "FRESH")


def test_what_a_run_has_told_is_known(
    instance: dg.DagsterInstance, definitions: dg.Definitions, workspace: Workspace
) -> None:
    instance.add_dynamic_partitions("experiment", [A])
    result = definitions.resolve_job_def(PIPELINE_JOB).execute_in_process(instance=instance, partition_key=A)
    assert result.success
    told = report(instance, definitions, workspace)
    assert (told.reported, told.known) == (3, 3)


def test_a_kept_edit_is_stale_for_dagster_too_in_an_empty_home_or_not(
    instance: dg.DagsterInstance, definitions: dg.Definitions, workspace: Workspace, tmp_path: Path
) -> None:
    report(instance, definitions, workspace)
    path = workspace.output("lengths", experiment=A)
    path.write_bytes(path.read_bytes().replace(b"A01,4", b"A01,5"))
    keep(workspace, path)
    told = report(instance, definitions, workspace)
    assert (told.reported, told.known) == (1, 5)
    wanted = {"letters": "FRESH", "lengths": "FRESH", "summary": "STALE"}
    assert statuses(instance, definitions, A) == wanted
    assert statuses(instance, definitions, B) == dict.fromkeys(STEPS, "FRESH")
    (tmp_path / "other").mkdir()
    with dg.DagsterInstance.local_temp(str(tmp_path / "other")) as other:
        report(other, definitions, workspace)
        assert statuses(other, definitions, A) == wanted
        run_chain(workspace, A)
        report(other, definitions, workspace)
        assert statuses(other, definitions, A) == dict.fromkeys(STEPS, "FRESH")


def test_a_missing_file_becomes_a_tombstone_and_its_return_ends_it(
    instance: dg.DagsterInstance, definitions: dg.Definitions, workspace: Workspace
) -> None:
    report(instance, definitions, workspace)
    path = workspace.output("lengths", experiment=A)
    data = path.read_bytes()
    path.unlink()
    told = report(instance, definitions, workspace)
    assert (told.reported, told.tombstones) == (0, 1)
    assert report(instance, definitions, workspace).tombstones == 0
    assert statuses(instance, definitions, A) == {"letters": "FRESH", "lengths": "STALE", "summary": "FRESH"}
    path.write_bytes(data)
    assert report(instance, definitions, workspace).reported == 1
    assert statuses(instance, definitions, A) == dict.fromkeys(STEPS, "FRESH")


def test_a_damaged_record_is_named_and_the_rest_reported(
    instance: dg.DagsterInstance, definitions: dg.Definitions, workspace: Workspace
) -> None:
    path = workspace.output("lengths", experiment=A)
    path.with_name(path.name + RECORD_SUFFIX).write_text("{}")
    told = report(instance, definitions, workspace)
    assert told.reported == 5
    assert [name for name, _ in told.refused] == [workspace.layout.relative(path)]


def test_a_retired_experiment_is_not_registered_again(
    instance: dg.DagsterInstance, definitions: dg.Definitions, workspace: Workspace
) -> None:
    report(instance, definitions, workspace)
    refuse_retirement(workspace, experiment=A)
    mark_retired(workspace.layout, experiment=A, host="h", records=3)
    assert remove_partition(instance, pipeline=workspace.pipeline, experiment=A)
    assert not remove_partition(instance, pipeline=workspace.pipeline, experiment=A)
    report(instance, definitions, workspace)
    assert instance.get_dynamic_partitions("experiment") == [B]
    assert workspace.output("lengths", experiment=A).exists()
    raw_folder(workspace.layout, "YX1", experiment=A).mkdir(parents=True)
    assert read_retired(workspace) == frozenset()


def test_what_is_there_or_at_work_is_not_retired(workspace: Workspace) -> None:
    with hold_lock(workspace.layout.lock("lengths", experiment=A), run_id="r"):
        with pytest.raises(TransientError, match="lengths is held"):
            refuse_retirement(workspace, experiment=A)
        refuse_retirement(workspace, experiment=B)
    raw_folder(workspace.layout, "YX1", experiment=A).mkdir(parents=True)
    with pytest.raises(PermanentError, match="is there"):
        refuse_retirement(workspace, experiment=A)


def test_runs_of_other_experiments_do_not_stand_in_the_way(instance: dg.DagsterInstance) -> None:
    for number, partition in enumerate((A, B)):
        dg_run = dg.DagsterRun(
            job_name="pipeline",
            run_id=f"00000000-0000-0000-0000-00000000000{number}",
            status=dg.DagsterRunStatus.STARTED,
            tags={"dagster/partition": partition},
        )
        instance.add_run(dg_run)
    assert find_runs_in_flight(instance, pipeline=TOY_PIPELINE, experiment=A) == (
        "00000000-0000-0000-0000-000000000000",
    )
    assert find_runs_in_flight(instance, pipeline=TOY_PIPELINE, experiment="20240420") == ()


def test_run_over_many_stands_in_the_way_of_its_own_experiments_alone(instance: dg.DagsterInstance) -> None:
    run_id = "00000000-0000-0000-0000-000000000000"
    instance.add_run(
        dg.DagsterRun(
            job_name=BULK_JOB, run_id=run_id, status=dg.DagsterRunStatus.STARTED, run_config=bulk_config((A, B))
        )
    )
    assert find_runs_in_flight(instance, pipeline=TOY_PIPELINE, experiment=A) == (run_id,)
    assert find_runs_in_flight(instance, pipeline=TOY_PIPELINE, experiment="20240420") == ()


def test_run_that_names_no_experiment_stands_in_the_way_of_all(instance: dg.DagsterInstance) -> None:
    run_id = "00000000-0000-0000-0000-000000000000"
    instance.add_run(dg.DagsterRun(job_name="cohort", run_id=run_id, status=dg.DagsterRunStatus.STARTED))
    assert find_runs_in_flight(instance, pipeline=TOY_PIPELINE, experiment="20240420") == (run_id,)
