"""The one partition set of the pipeline: every experiment is a partition.

Holds the definition, the registration of experiments with an instance, and which of them runs are at. Keys are checked
before they get here.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import dagster as dg

from morphseq_dagster.identifiers import check_experiment

BULK_JOB = "bulk"
"""The job of one run over many experiments; its configuration names them."""
BULK_OP = "walk"
_PARTITION_TAG = "dagster/partition"
_UNFINISHED = (
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.MANAGED,
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
    return {name: f"run {run.run_id} is {run.status.value.lower()}" for run in runs for name in _experiments_of(run)}


def find_runs_in_flight(instance: dg.DagsterInstance, *, experiment: str) -> tuple[str, ...]:
    """Identifiers of queued and running runs that work on an experiment, or do not say on which they do."""
    runs = instance.get_runs(filters=dg.RunsFilter(statuses=list(_UNFINISHED)))
    return tuple(run.run_id for run in runs if experiment in (_experiments_of(run) or (experiment,)))


def bulk_config(
    experiments: Sequence[str], *, steps: Sequence[str] = (), force: bool = False, automatic: bool = False
) -> dict[str, Any]:
    """Configuration of a run of the job `bulk`."""
    named = {"experiments": list(experiments), "steps": list(steps), "force": force, "automatic": automatic}
    return {"ops": {BULK_OP: {"config": named}}}


def _experiments_of(run: dg.DagsterRun) -> tuple[str, ...]:
    """Experiments that a run works on: its partition, or those that its configuration names."""
    if run.job_name == BULK_JOB:
        config: Any = run.run_config
        return tuple(config["ops"][BULK_OP]["config"]["experiments"])
    return (run.tags[_PARTITION_TAG],) if _PARTITION_TAG in run.tags else ()
