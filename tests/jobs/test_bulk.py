"""The job `bulk`: what Dagster is told of each partition, who is refused, what a second run does."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator
from hashlib import sha256
from pathlib import Path

import dagster as dg
import pytest

import morphseq_dagster
from morphseq_dagster.build import PIPELINE_JOB, build_definitions
from morphseq_dagster.cluster.attempt_folder import JobRoot
from morphseq_dagster.engine.storage.records import Record, read_record
from morphseq_dagster.engine.workspace import Workspace
from morphseq_dagster.morphseq.pipeline import MORPHSEQ
from morphseq_dagster.partitions import BULK_JOB, bulk_config, find_busy, register_keys
from morphseq_dagster.settings.machine import MachineSettings, PlacesSettings
from morphseq_dagster.testing.relay import RELAY, RELAY_PIPELINE, word_file

STEPS = ("first", "second", "third")
TEMPLATE = Path(morphseq_dagster.__file__).parent / "templates" / "dagster.yaml"
CLUSTER = {
    "second": "slurm",
    "slurm": {"resources": {"memory": "200M", "time": 5}, "grace_s": 3, "lost_s": 10, "settle_s": 3},
}


class Station:
    """A data root of the relay pipeline with its definitions and an instance."""

    def __init__(self, folder: Path, *, cluster: bool = False) -> None:
        self.workspace = Workspace(folder / "root", RELAY_PIPELINE)
        places = PlacesSettings.model_validate(CLUSTER if cluster else {})
        settings = MachineSettings.model_validate({"data_root": folder / "root", "places": places})
        self.definitions = build_definitions(settings, pipeline=RELAY)
        self.open(folder / "home")

    def open(self, home: Path) -> None:
        home.mkdir(parents=True)
        shutil.copy(TEMPLATE, home)
        self.instance = dg.DagsterInstance.from_config(str(home))

    def add(self, count: int, *, failing: Iterable[int] = ()) -> list[str]:
        names = [f"202404{number:02d}" for number in range(1, count + 1)]
        for number, name in enumerate(names):
            path = word_file(self.workspace.layout, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("fail\n" if number in failing else f"word{number}\n")
        register_keys(self.instance, names, pipeline=MORPHSEQ)
        return names

    def bulk(self, names: Iterable[str], **more: object) -> dg.ExecuteInProcessResult:
        return self.definitions.resolve_job_def(BULK_JOB).execute_in_process(
            instance=self.instance,
            run_config=bulk_config(tuple(names), **more),  # type: ignore[arg-type]
            raise_on_error=False,
        )

    def events(self, step: str) -> list[dg.EventLogRecord]:
        return list(self.instance.fetch_materializations(dg.AssetKey(step), limit=1000).records)

    def record(self, name: str, step: str) -> Record | None:
        return read_record(self.workspace.layout, primary=self.workspace.output(step, experiment=name))


@pytest.fixture
def station(tmp_path: Path) -> Iterator[Station]:
    station = Station(tmp_path)
    yield station
    station.instance.dispose()


def tags(event: dg.EventLogRecord) -> dict[str, str]:
    assert event.asset_materialization is not None
    return dict(event.asset_materialization.tags or {})


def failure(result: dg.ExecuteInProcessResult) -> dg.Failure:
    (event,) = [event for event in result.all_events if event.is_step_failure]
    data = event.step_failure_data.user_failure_data
    assert data is not None
    return dg.Failure(data.description, metadata=data.metadata)


def test_partition_carries_what_an_ordinary_run_leaves(station: Station, tmp_path: Path) -> None:
    (name,) = station.add(1)
    assert station.bulk([name]).success
    other = Station(tmp_path / "other")
    other.add(1)
    job = other.definitions.resolve_job_def(PIPELINE_JOB)
    assert job.execute_in_process(instance=other.instance, partition_key=name).success
    for step in STEPS:
        (mine,), (ordinary,) = station.events(step), other.events(step)
        assert mine.partition_key == name
        expected = {key: value for key, value in tags(ordinary).items() if "event_pointer" not in key}
        assert {key: value for key, value in tags(mine).items() if "event_pointer" not in key} == expected
        pointers = {key for key in tags(ordinary) if "event_pointer" in key}
        assert {key for key in tags(mine) if "event_pointer" in key} == pointers
        assert mine.asset_materialization is not None
        assert ordinary.asset_materialization is not None
        assert mine.asset_materialization.metadata.keys() == ordinary.asset_materialization.metadata.keys()
    (first,), (second,) = station.events("first"), station.events("second")
    assert tags(second)["dagster/input_event_pointer/first"] == str(first.storage_id)
    read = sha256(tags(first)["dagster/data_version"].encode()).hexdigest()
    assert tags(second)["dagster/input_data_version/first"] == read
    other.instance.dispose()


def test_failure_is_named_at_the_end_and_the_others_are_done(station: Station) -> None:
    names = station.add(4, failing=[2])
    result = station.bulk([*names, names[0]])
    assert not result.success
    told = failure(result)
    assert told.description == f"1 of 4 experiments failed: {names[2]}; the others are done", "doubles count once"
    assert "found fail" in str(told.metadata[names[2]].value)
    assert [len(station.events(step)) for step in STEPS] == [4, 3, 3]
    assert {event.partition_key for event in station.events("third")} == set(names) - {names[2]}


def test_nothing_to_do_leaves_no_event(station: Station) -> None:
    names = station.add(2)
    station.bulk(names)
    assert station.bulk(names).success
    assert [len(station.events(step)) for step in STEPS] == [2, 2, 2]


def test_forced_step_is_made_again_and_what_follows_stands(station: Station) -> None:
    names = station.add(2)
    station.bulk(names)
    assert station.bulk(names, steps=["first"], force=True).success
    assert [len(station.events(step)) for step in STEPS] == [4, 2, 2]
    assert station.bulk(names, force=True).success
    assert [len(station.events(step)) for step in STEPS] == [6, 4, 4]


def test_only_the_named_steps_and_what_is_missing_before_them_run(station: Station) -> None:
    (name,) = station.add(1)
    assert station.bulk([name], steps=["second"]).success
    assert [len(station.events(step)) for step in STEPS] == [1, 1, 0]


def test_what_stands_is_told_to_an_instance_that_does_not_know_it(station: Station, tmp_path: Path) -> None:
    names = station.add(2)
    station.bulk(names)
    station.instance.dispose()
    station.open(tmp_path / "lost")
    register_keys(station.instance, names, pipeline=MORPHSEQ)
    assert station.bulk(names).success
    versions = {(event.partition_key, tags(event)["dagster/data_version"]) for event in station.events("third")}
    assert versions == {(name, getattr(station.record(name, "third"), "data_version", None)) for name in names}
    assert station.bulk(names).success
    assert [len(station.events(step)) for step in STEPS] == [2, 2, 2]


@pytest.mark.parametrize(
    ("names", "steps", "said"),
    [
        ([], [], "no experiment is named"),
        (["20240401", "20990101", "../etc"], [], "not registered, or retired: 20990101, ../etc"),
        (["20240401"], ["thrid"], "no such steps: thrid"),
    ],
)
def test_wrong_configuration_is_refused_before_anything_starts(
    station: Station, names: list[str], steps: list[str], said: str
) -> None:
    station.add(1)
    result = station.bulk(names, steps=steps)
    assert not result.success
    assert failure(result).description == said
    assert station.events("first") == []
    assert not station.workspace.output("first", experiment="20240401").exists()


def test_experiments_of_a_bulk_run_are_at_work(station: Station) -> None:
    names = station.add(2)
    job = station.definitions.resolve_job_def(BULK_JOB)
    run = station.instance.create_run_for_job(job, run_config=bulk_config(names), status=dg.DagsterRunStatus.STARTED)
    assert find_busy(station.instance, pipeline=station.workspace.pipeline) == dict.fromkeys(
        names, f"run {run.run_id} is started"
    )


@pytest.mark.slurm
@pytest.mark.usefixtures("cluster")
def test_twelve_experiments_at_the_cluster(tmp_path: Path) -> None:
    station = Station(tmp_path, cluster=True)
    names = station.add(12, failing=[5])
    result = station.bulk(names)
    run = station.instance.get_run_by_id(result.run_id)
    assert run is not None
    assert run.status is dg.DagsterRunStatus.FAILURE
    assert names[5] in (failure(result).description or "")
    good = [name for name in names if name != names[5]]
    for step, expected in zip(STEPS, (names, good, good), strict=True):
        told = {event.partition_key: tags(event)["dagster/data_version"] for event in station.events(step)}
        assert len(station.events(step)) == len(expected), "one event each"
        assert told == {name: getattr(station.record(name, step), "data_version", None) for name in expected}
        assert len(set(told.values())) == len(expected)
        assert station.instance.get_materialized_partitions(dg.AssetKey(step)) == set(expected)
    (one,) = [event for event in station.events("second") if event.partition_key == names[0]]
    assert one.asset_materialization is not None
    assert str(one.asset_materialization.metadata["job/job"].value).isdigit()
    attempts = list(station.workspace.layout.jobs.glob("*/*/*/a*"))
    assert len(attempts) == 12

    assert not station.bulk(names).success
    new = set(station.workspace.layout.jobs.glob("*/*/*/a*")) - set(attempts)
    assert [path.relative_to(station.workspace.layout.jobs).parts[:2] for path in new] == [("second", names[5])]
    assert not list(JobRoot(station.workspace.layout.jobs).open_attempts())
    assert [len(station.events(step)) for step in STEPS] == [12, 11, 11]
    station.instance.dispose()
