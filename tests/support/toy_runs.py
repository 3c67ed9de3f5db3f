"""Runs of the toy pipeline as assets, in a Dagster instance, and what they made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dagster as dg

from morphseq_dagster.build import PIPELINE_JOB, build_definitions
from morphseq_dagster.engine.storage.records import Failure, Record, read_failure, read_record
from morphseq_dagster.engine.workspace import Workspace
from morphseq_dagster.morphseq.pipeline import MORPHSEQ
from morphseq_dagster.partitions import register_keys
from morphseq_dagster.settings.machine import MachineSettings
from morphseq_dagster.testing.chain import TOY, open_toy, write_words

EXPERIMENT = "20240418"
STEPS = ["letters", "lengths", "summary"]


class Runs:
    """One data root with its Definitions and an instance of its own."""

    def __init__(self, root: Path, instance: dg.DagsterInstance, **settings: object) -> None:
        self.workspace: Workspace = open_toy(root)
        self.instance = instance
        self.definitions = build_definitions(
            MachineSettings.model_validate({"data_root": root, **settings}), pipeline=TOY
        )
        register_keys(instance, [EXPERIMENT], pipeline=MORPHSEQ)

    def words(self, **words: str) -> None:
        write_words(self.workspace.layout, EXPERIMENT, words=words)

    def run(
        self, *, tags: dict[str, str] | None = None, only: list[str] | None = None, partition: str = EXPERIMENT
    ) -> dg.ExecuteInProcessResult:
        job = self.definitions.resolve_job_def(PIPELINE_JOB)
        return job.execute_in_process(
            instance=self.instance,
            partition_key=partition,
            tags=tags,
            asset_selection=[dg.AssetKey(name) for name in only] if only else None,
            raise_on_error=False,
        )

    def record(self, step: str) -> Record:
        found = read_record(self.workspace.layout, primary=self.primary(step))
        assert found is not None
        return found

    def failure(self, step: str) -> Failure | None:
        return read_failure(self.workspace.layout, primary=self.primary(step))

    def primary(self, step: str) -> Path:
        return self.workspace.output(self.workspace.pipeline.spec(step), experiment=EXPERIMENT)

    @property
    def temporaries(self) -> list[Path]:
        return sorted(self.workspace.data_root.rglob("*.tmp"))


def materializations(result: dg.ExecuteInProcessResult) -> dict[str, dg.AssetMaterialization]:
    events = result.get_asset_materialization_events()
    return {str(e.asset_key.path[-1]): e.materialization for e in events if e.asset_key is not None}


def computed(result: dg.ExecuteInProcessResult) -> list[str]:
    assert result.success
    found = materializations(result)
    assert sorted(found) == sorted(STEPS)
    return [step for step in STEPS if (found[step].tags or {}).get("morphseq/memo") != "hit"]


def failed(result: dg.ExecuteInProcessResult) -> dict[str, Any]:
    assert not result.success
    (event,) = [e for e in result.all_events if e.is_step_failure]
    assert event.step_key is not None
    data = event.step_failure_data
    words = [data.error.to_string()] if data.error is not None else []
    if data.user_failure_data is not None:
        words.append(str(data.user_failure_data.description))
        words += [str(value.value) for value in data.user_failure_data.metadata.values()]
    return {"step": event.step_key, "text": "\n".join(words), "data": data.user_failure_data}


def published(root: Path) -> dict[str, bytes]:
    return {
        p.relative_to(root).as_posix(): p.read_bytes()
        for p in sorted(root.rglob("*"))
        if p.is_file() and ".morphseq" not in p.parts and not p.name.endswith((".provenance.json", ".failure.json"))
    }
