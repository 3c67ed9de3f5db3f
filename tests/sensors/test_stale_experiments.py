"""The sensor that launches what is stale: which way many experiments go, and that nothing is asked for twice."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.definitions.partitions.context import partition_loading_context
from dagster._core.definitions.sensor_definition import SensorExecutionData

from morphseq_dagster.build import build_definitions
from morphseq_dagster.engine.workspace import Workspace
from morphseq_dagster.morphseq import PIPELINE
from morphseq_dagster.morphseq.pipeline import MORPHSEQ
from morphseq_dagster.partitions import BULK_JOB, bulk_config, register_keys
from morphseq_dagster.sensors.staleness import LAUNCH, STALE_TAG
from morphseq_dagster.settings.machine import MachineSettings, PlacesSettings
from tests.support.experiments import open_data_root
from tests.support.fabricated import fabricate_experiment, name_experiments

FIRST = "gdino_detections"
STALE = tuple(spec.name for spec in MORPHSEQ.steps if spec.name in MORPHSEQ.descendants({FIRST}))
CLUSTER = PlacesSettings.model_validate({"sam2_tracks": "slurm", "slurm": {"environment": "any"}})


class Post:
    """A data root of fabricated experiments with its sensor and an instance."""

    def __init__(self, folder: Path, instance: dg.DagsterInstance) -> None:
        self.workspace: Workspace = open_data_root(folder / "root")
        self.instance = instance

    def add_stale(self, count: int) -> tuple[str, ...]:
        """Have so many finished experiments, then change a parameter of all."""
        names = name_experiments(count)
        self.set_threshold("default", 0.45)
        for name in names:
            if not self.workspace.output(FIRST, experiment=name).exists():
                fabricate_experiment(self.workspace, name)
        register_keys(self.instance, names, pipeline=MORPHSEQ)
        self.set_threshold("default", 0.5)
        return names

    def set_threshold(self, recipe: str, value: float) -> None:
        path = self.workspace.layout.recipes("default")[0].parent / f"{recipe}.toml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"[{FIRST}]\nconfidence_threshold = {value}\n")

    def tick(self, cursor: str | None = None, *, places: PlacesSettings = CLUSTER) -> SensorExecutionData:
        """Evaluate as the daemon does; requests are resolved against the jobs that they name."""
        settings = MachineSettings(data_root=self.workspace.data_root, places=places)
        definitions = build_definitions(settings, pipeline=PIPELINE)
        repository = definitions.get_repository_def()
        context = dg.build_sensor_context(
            instance=self.instance,
            cursor=cursor,
            repository_def=repository,
            resources={"workspace": (definitions.resources or {})["workspace"]},
        )
        with partition_loading_context(dynamic_partitions_store=self.instance):
            return repository.get_sensor_def(LAUNCH).evaluate_tick(context)


@pytest.fixture
def post(tmp_path: Path) -> Iterator[Post]:
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        yield Post(tmp_path, instance)


def requests(tick: SensorExecutionData) -> list[dg.RunRequest]:
    return list(tick.run_requests or [])


def test_nine_experiments_for_the_cluster_are_asked_for_as_one_run_once(post: Post) -> None:
    names = post.add_stale(9)
    tick = post.tick()
    (request,) = requests(tick)
    assert request.job_name == BULK_JOB
    assert request.run_config == bulk_config(names, automatic=True)
    assert request.tags[STALE_TAG] == "9 experiments"
    assert request.partition_key is None

    again = post.tick(tick.cursor)
    assert requests(again) == []
    assert again.skip_message == "9 experiments looked at, nothing to launch"
    (forgotten,) = requests(post.tick())
    assert forgotten.run_key == request.run_key, "equal reasons, equal name: the daemon launches it no second time"


def test_eight_experiments_are_a_run_each(post: Post) -> None:
    names = post.add_stale(8)
    tick = post.tick()
    asked = requests(tick)
    assert [(request.job_name, request.partition_key) for request in asked] == [("pipeline", name) for name in names]
    assert [[key.path[-1] for key in request.asset_selection or ()] for request in asked] == [list(STALE)] * 8
    assert len({request.run_key for request in asked}) == 8
    assert requests(post.tick(tick.cursor)) == []


def test_nine_experiments_of_this_machine_are_a_run_each(post: Post) -> None:
    names = post.add_stale(9)
    asked = requests(post.tick(places=PlacesSettings.model_validate({})))
    assert [(request.job_name, request.partition_key) for request in asked] == [("pipeline", name) for name in names]


def test_member_of_a_run_over_all_is_asked_for_again_only_for_new_reasons(post: Post) -> None:
    names = post.add_stale(9)
    first = post.tick()
    # The run over all ends: one failed, one was given another parameter meanwhile.
    for name in names[:7]:
        fabricate_experiment(post.workspace, name)
    post.set_threshold(names[8], 0.6)
    second = post.tick(first.cursor)
    (request,) = requests(second)
    assert (request.job_name, request.partition_key) == ("pipeline", names[8])
    assert requests(post.tick(second.cursor)) == []


def test_what_was_asked_for_singly_is_no_part_of_a_later_run_over_all(post: Post) -> None:
    names = post.add_stale(2)
    first = post.tick()
    assert len(requests(first)) == 2
    more = post.add_stale(11)
    (request,) = requests(post.tick(first.cursor))
    assert request.run_config == bulk_config([name for name in more if name not in names], automatic=True)


def test_cursor_of_another_kind_starts_afresh(post: Post) -> None:
    post.add_stale(9)
    assert len(requests(post.tick("not a cursor"))) == 1
