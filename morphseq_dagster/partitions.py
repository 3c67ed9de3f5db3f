"""Partitions: every key of a pipeline is a partition of one dynamic set, and which of them runs are at.

Two pipelines in one Dagster instance have a set each, named by what their keys stand for. Keys are checked by the
pipeline's rule (`engine/pipeline.py`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

import dagster as dg

from morphseq_dagster.engine.pipeline import Pipeline

BULK_JOB: Final = "bulk"
"""The job of one run over many experiments; its configuration names them."""
BULK_OP: Final = "walk"
REPORT_OP: Final = "report"
"""The op of the job that reports staleness; its configuration names experiments too."""
PARTITION_TAG: Final = "dagster/partition"
PIPELINE_TAG: Final = "morphseq/pipeline"
"""Tag of runs: the pipeline whose partitions they work on."""
_UNFINISHED = (
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.MANAGED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
)


def partitions_of(pipeline: Pipeline) -> dg.DynamicPartitionsDefinition:
    """Partition set of a pipeline."""
    return dg.DynamicPartitionsDefinition(name=pipeline.keys.noun)


def find_registered(instance: dg.DagsterInstance, *, pipeline: Pipeline) -> set[str]:
    """Keys that the instance knows."""
    return set(instance.get_dynamic_partitions(pipeline.keys.noun))


def register_keys(instance: dg.DagsterInstance, names: Iterable[str], *, pipeline: Pipeline) -> tuple[str, ...]:
    """Register keys that the instance does not know yet; return the new ones in order."""
    known = find_registered(instance, pipeline=pipeline)
    new = tuple(sorted({pipeline.keys.check(name) for name in names} - known))
    if new:
        instance.add_dynamic_partitions(pipeline.keys.noun, list(new))
    return new


def find_busy(instance: dg.DagsterInstance, *, pipeline: Pipeline) -> dict[str, str]:
    """Keys with a run that is queued or under way, each with that run in words."""
    records = instance.get_run_records(dg.RunsFilter(statuses=list(_UNFINISHED)))
    runs = [record.dagster_run for record in records if _is_of(record.dagster_run, pipeline=pipeline)]
    return {name: f"run {run.run_id} is {run.status.value.lower()}" for run in runs for name in _keys_of(run)}


def find_runs_in_flight(instance: dg.DagsterInstance, *, pipeline: Pipeline, experiment: str) -> tuple[str, ...]:
    """Identifiers of queued and running runs that work on a key, or do not say on which they do."""
    runs = instance.get_runs(filters=dg.RunsFilter(statuses=list(_UNFINISHED)))
    mine = [run for run in runs if _is_of(run, pipeline=pipeline)]
    return tuple(run.run_id for run in mine if experiment in (_keys_of(run) or (experiment,)))


def bulk_config(
    experiments: Sequence[str], *, steps: Sequence[str] = (), force: bool = False, automatic: bool = False
) -> dict[str, Any]:
    """Configuration of a run of the job `bulk`."""
    named = {"experiments": list(experiments), "steps": list(steps), "force": force, "automatic": automatic}
    return {"ops": {BULK_OP: {"config": named}}}


def _is_of(run: dg.DagsterRun, *, pipeline: Pipeline) -> bool:
    """Whether a run works on this pipeline's keys; one that does not say so may."""
    return run.tags.get(PIPELINE_TAG, pipeline.name) == pipeline.name


def _keys_of(run: dg.DagsterRun) -> tuple[str, ...]:
    """Keys that a run works on: its partition, or those that its configuration names."""
    if run.job_name == BULK_JOB:
        config: Any = run.run_config
        return tuple(config["ops"][BULK_OP]["config"]["experiments"])
    return (run.tags[PARTITION_TAG],) if PARTITION_TAG in run.tags else ()
