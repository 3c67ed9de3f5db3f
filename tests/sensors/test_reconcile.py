from __future__ import annotations

from pathlib import Path

import dagster as dg
import pytest

from morphseq_dagster.build import build_definitions
from morphseq_dagster.engine.workspace import Workspace
from morphseq_dagster.sensors.reconcile import SENSOR, make_reconcile_sensor
from morphseq_dagster.settings.machine import load_settings
from morphseq_dagster.testing.chain import TOY, open_toy, run_chain, write_words

EXP = "20240418"


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    workspace = open_toy(tmp_path / "root")
    write_words(workspace.layout, EXP, words={"A01": "fish"})
    run_chain(workspace, EXP)
    return workspace


def tick(workspace: Workspace, instance: dg.DagsterInstance) -> str:
    definitions = build_definitions(load_settings(data_root=workspace.data_root), pipeline=TOY)
    sensor = make_reconcile_sensor(definitions)
    resources = {"workspace": definitions.resources["workspace"]} if definitions.resources else {}
    context = dg.build_sensor_context(instance=instance, resources=resources, definitions=definitions)
    reason = sensor(context)
    assert isinstance(reason, dg.SkipReason)
    return str(reason.skip_message)


def test_a_tick_tells_what_is_new_and_changes_no_file(workspace: Workspace) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        assert (
            tick(workspace, instance) == "3 artifacts: no findings; reported 3 artifacts and 0 missing files to Dagster"
        )
        assert tick(workspace, instance) == "3 artifacts: no findings"
        path = workspace.output("lengths", experiment=EXP)
        path.unlink()
        before = sorted(p for p in workspace.data_root.rglob("*"))
        told = tick(workspace, instance)
        assert told == "3 artifacts: 1 deleted; reported 0 artifacts and 1 missing files to Dagster"
        assert tick(workspace, instance) == "3 artifacts: 1 deleted"
        assert sorted(p for p in workspace.data_root.rglob("*")) == before


def test_it_is_off_until_switched_on(workspace: Workspace) -> None:
    definitions = build_definitions(load_settings(data_root=workspace.data_root), pipeline=TOY)
    sensor = (
        definitions.resolve_sensor_def(SENSOR)
        if hasattr(definitions, "resolve_sensor_def")
        else (definitions.get_repository_def().get_sensor_def(SENSOR))
    )
    assert sensor.default_status is dg.DefaultSensorStatus.STOPPED
    assert sensor.minimum_interval_seconds == 300
