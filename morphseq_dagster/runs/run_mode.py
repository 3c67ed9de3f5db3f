"""Run mode: whether many experiments go as one bulk run or each as a run of its own.

The command line, the jobs and the sensors share this rule. The bulk run itself is `jobs/bulk.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Final

from morphseq_dagster.settings.slurm import SLURM

MOST_SINGLE_RUNS: Final = 8
"""Experiments with steps at the cluster up to which each has a run of its own."""


def wants_bulk(
    chains: Mapping[str, Iterable[str]], *, place_of: Callable[[str, str], str], chained: bool = False
) -> bool:
    """Whether experiments go as one run: a process each would wait for the jobs of too many.

    Parameters
    ----------
    chains
        Experiment to the steps that must run.
    place_of
        Name of the place of a step (first) of an experiment (second).
    chained
        Whether jobs go on with the steps that follow, which they do in one run over all alone: one experiment with two
        steps at the cluster is enough then.
    """
    at_cluster = [sum(place_of(step, name) == SLURM for step in steps) for name, steps in chains.items()]
    return sum(count > 0 for count in at_cluster) > MOST_SINGLE_RUNS or (chained and max(at_cluster, default=0) > 1)


def describe_way(*, bulk: bool) -> str:
    """Describe the mode, for dry runs and previews."""
    return "one run over all" if bulk else "one run each"
