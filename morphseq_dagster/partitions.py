"""The one partition set of the pipeline: every experiment is a partition.

Holds the definition and the registration of experiments with an instance. Keys are checked before they get here.
"""

from __future__ import annotations

from collections.abc import Iterable

import dagster as dg

from morphseq_dagster.identifiers import check_experiment

EXPERIMENTS = dg.DynamicPartitionsDefinition(name="experiment")


def register_experiments(instance: dg.DagsterInstance, names: Iterable[str]) -> tuple[str, ...]:
    """Register experiments that the instance does not know yet; return the new ones in order."""
    known = set(instance.get_dynamic_partitions(str(EXPERIMENTS.name)))
    new = tuple(sorted({check_experiment(name) for name in names} - known))
    if new:
        instance.add_dynamic_partitions(str(EXPERIMENTS.name), list(new))
    return new
