from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from morphseq_dagster.build import PIPELINE_JOB, build_definitions
from morphseq_dagster.engine.pipeline import FoundSource, SourceState
from morphseq_dagster.morphseq.pipeline import MORPHSEQ
from morphseq_dagster.partitions import register_keys
from morphseq_dagster.resources.workspace import WorkspaceResource
from morphseq_dagster.sensors.new_experiments import (
    SENSOR,
    Cursor,
    Launch,
    Seen,
    Workbook,
    decide,
    make_sensor,
    read_cursor,
)
from morphseq_dagster.settings.machine import MachineSettings
from morphseq_dagster.testing.chain import TOY, open_toy, run_chain, write_words

A, B = "20240101", "20240102"


def entry(name: str = A, *, state: SourceState = "ready", fingerprint: str = "f1") -> FoundSource:
    return FoundSource(name, "Frames", state, fingerprint=fingerprint)


def launches(
    *found: FoundSource,
    seen: dict[str, Seen] | None = None,
    busy: set[str] | None = None,
    workbooks: dict[str, Workbook] | None = None,
) -> tuple[list[str], dict[str, Seen]]:
    decision = decide(found, workbooks=workbooks or {}, registered=set(), busy=busy or set(), seen=seen or {})
    return [launch.run_key for launch in decision.launches], dict(decision.seen)


def test_new_experiment_is_added_and_run_once() -> None:
    decision = decide([entry()], workbooks={}, registered=set(), busy=set(), seen={})
    assert decision.additions == (A,)
    assert decision.launches == (Launch(A, f"raw:{A}:f1"),)
    again = decide([entry()], workbooks={}, registered={A}, busy=set(), seen=decision.seen)
    assert (again.additions, again.launches) == ((), ())


def test_acquiring_one_is_added_but_waits_and_refused_one_is_neither() -> None:
    decision = decide(
        [entry(A, state="acquiring"), entry(B, state="refused")], workbooks={}, registered=set(), busy=set(), seen={}
    )
    assert (decision.additions, decision.launches, dict(decision.seen)) == ((A,), (), {})


def test_changed_raw_files_run_again_under_another_key() -> None:
    keys, seen = launches(entry(fingerprint="f2"), seen={A: Seen(raw="f1")})
    assert keys == [f"raw:{A}:f2"]
    assert seen[A].raw == "f2"


def test_busy_experiment_has_its_turn_later() -> None:
    keys, seen = launches(entry(), busy={A})
    assert (keys, seen) == ([], {})
    assert launches(entry(), seen=seen)[0] == [f"raw:{A}:f1"]


def test_workbook_that_comes_later_or_changes_runs_with_its_hash_in_the_key() -> None:
    book, other = Workbook("0" * 64, 1), Workbook("1" * 64, 2)
    _, seen = launches(entry())
    keys, seen = launches(entry(), seen=seen, workbooks={A: book})
    assert keys == [f"workbook:{A}:{'0' * 16}:1"]
    assert launches(entry(), seen=seen, workbooks={A: book})[0] == []
    assert launches(entry(), seen=seen, workbooks={A: Workbook("0" * 64, 9)})[0] == [], "touched, not changed"
    keys, seen = launches(entry(), seen=seen, workbooks={A: other})
    assert keys == [f"workbook:{A}:{'1' * 16}:2"]
    assert launches(entry(), seen=seen, workbooks={A: Workbook("0" * 64, 3)})[0] == [f"workbook:{A}:{'0' * 16}:3"]


def test_workbook_that_vanishes_starts_nothing() -> None:
    assert launches(entry(), seen={A: Seen(raw="f1", workbook="0" * 64)})[0] == []


@pytest.mark.parametrize("text", [None, "", "{", "[]", '{"version": 99}', '{"seen": 3}'])
def test_strange_cursor_starts_afresh(text: str | None) -> None:
    assert read_cursor(text, kind=Cursor) == Cursor()


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_words(open_toy(tmp_path).layout, A, words={"A01": "fish"})
    folder = tmp_path / "raw_image_data" / "Keyence" / A
    folder.mkdir(parents=True)
    (folder / "a.tif").touch()
    return tmp_path


def definitions(root: Path) -> dg.Definitions:
    return build_definitions(MachineSettings(data_root=root), pipeline=TOY)


def tick(root: Path, instance: dg.DagsterInstance, cursor: str | None = None) -> dg.SensorResult:
    repository = definitions(root).get_repository_def()
    workspace = WorkspaceResource(data_root=str(root), pipeline=TOY)
    with dg.build_sensor_context(instance=instance, cursor=cursor, repository_def=repository) as context:
        result = repository.get_sensor_def(SENSOR)(context, workspace=workspace)
    assert isinstance(result, dg.SensorResult)
    return result


def test_sensor_is_off_until_switched_on() -> None:
    assert make_sensor(PIPELINE_JOB).default_status is dg.DefaultSensorStatus.STOPPED


def test_growing_folder_is_registered_and_run_only_when_it_has_ended(root: Path, instance: dg.DagsterInstance) -> None:
    first = tick(root, instance)
    (request,) = first.dynamic_partitions_requests or []
    assert list(request.partition_keys) == [A]
    assert not first.run_requests
    (root / "raw_image_data" / "Keyence" / A / "acquisition_complete").touch()
    second = tick(root, instance, first.cursor)
    (run,) = second.run_requests or []
    assert run.partition_key == A
    assert str(run.run_key).startswith(f"raw:{A}:")
    assert not tick(root, instance, second.cursor).run_requests


def test_two_ticks_that_know_nothing_of_each_other_ask_with_the_same_key(
    root: Path, instance: dg.DagsterInstance
) -> None:
    (root / "raw_image_data" / "Keyence" / A / "acquisition_complete").touch()
    keys = {run.run_key for _ in range(2) for run in tick(root, instance).run_requests or []}
    assert len(keys) == 1


def test_finished_experiment_is_not_run_when_the_sensor_first_sees_it(root: Path, instance: dg.DagsterInstance) -> None:
    run_chain(open_toy(root), A)
    (root / "raw_image_data" / "Keyence" / A / "acquisition_complete").touch()
    result = tick(root, instance)
    assert not result.run_requests
    assert set(json.loads(result.cursor or "")["seen"]) == {A}


def test_experiment_with_a_run_under_way_is_left_out(root: Path, instance: dg.DagsterInstance) -> None:
    (root / "raw_image_data" / "Keyence" / A / "acquisition_complete").touch()
    register_keys(instance, [A], pipeline=MORPHSEQ)
    job = definitions(root).resolve_job_def(PIPELINE_JOB)
    run = instance.create_run_for_job(job, tags={"dagster/partition": A}, status=dg.DagsterRunStatus.STARTED)
    result = tick(root, instance)
    assert not result.run_requests
    instance.report_run_canceled(run)
    assert [request.partition_key for request in tick(root, instance, result.cursor).run_requests or []] == [A]


def test_vanished_folder_is_forgotten_by_the_cursor_but_stays_a_partition(
    root: Path, instance: dg.DagsterInstance
) -> None:
    register_keys(instance, [A, B], pipeline=MORPHSEQ)
    cursor = Cursor(seen={B: Seen(raw="x")}).model_dump_json()
    result = tick(root, instance, cursor)
    assert B not in json.loads(result.cursor or "")["seen"]
    assert B in instance.get_dynamic_partitions("experiment")
    assert not any(
        isinstance(request, dg.DeleteDynamicPartitionsRequest) for request in result.dynamic_partitions_requests or []
    )


def test_one_bad_folder_does_not_stop_the_tick(root: Path, instance: dg.DagsterInstance) -> None:
    loop = root / "raw_image_data" / "Keyence" / B
    loop.symlink_to(loop)
    (root / "raw_image_data" / "Keyence" / A / "acquisition_complete").touch()
    assert [request.partition_key for request in tick(root, instance).run_requests or []] == [A]
