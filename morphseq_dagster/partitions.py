"""The one partition set of the pipeline: every experiment is a partition.

Holds the definition, the registration of experiments with an instance, and which of them runs are at. Keys are checked
before they get here.
"""

from __future__ import annotations

from collections.abc import Iterable

import dagster as dg

from morphseq_dagster.identifiers import check_experiment

_PARTITION_TAG = "dagster/partition"
_UNFINISHED = (
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
)
EXPERIMENTS = dg.DynamicPartitionsDefinition(name="experiment")


def register_experiments(instance: dg.DagsterInstance, names: Iterable[str]) -> tuple[str, ...]:
    """Register experiments that the instance does not know yet; return the new ones in order."""
    known = set(instance.get_dynamic_partitions(str(EXPERIMENTS.name)))
    new = tuple(sorted({check_experiment(name) for name in names} - known))
    if new:
        instance.add_dynamic_partitions(str(EXPERIMENTS.name), list(new))
    return new


def find_busy(instance: dg.DagsterInstance) -> dict[str, str]:
    """Experiments with a run that is queued or under way, each with that run in words."""
    records = instance.get_run_records(dg.RunsFilter(statuses=list(_UNFINISHED)))
    runs = [record.dagster_run for record in records]
    return {
        run.tags[_PARTITION_TAG]: f"run {run.run_id} is {run.status.value.lower()}"
        for run in runs
        if _PARTITION_TAG in run.tags
    }
