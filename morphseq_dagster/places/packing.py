"""Packing: which steps are small, and which experiments that are ready for one share an allocation.

Holds the choice. How requests share an allocation is `morphseq_dagster.slurm.pack`, who waits for them `campaign`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from morphseq_dagster.places.connection import default_resources
from morphseq_dagster.places.slurm import SlurmPlace
from morphseq_dagster.slurm.job import Resources
from morphseq_dagster.steps.workspace import Workspace

SMALL_S: Final = 60.0
"""A step is small that takes this long at most: beside it the start of a job of its own would count."""

_Kind = tuple[str, Resources]


class Packing:
    """The choice of one campaign.

    Parameters
    ----------
    workspace
        Data root and registry; its records say how long steps took.
    """

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self._expected: dict[str, float | None] = {}
        self._refused: set[_Kind] = set()

    def choose(self, ready: Iterable[tuple[str, str, SlurmPlace]]) -> list[list[str]]:
        """Choose experiments that shall share an allocation: those of each list one.

        Parameters
        ----------
        ready
            Experiment, step and place of everything that could be submitted now.
        """
        groups: dict[_Kind, list[str]] = {}
        above: dict[_Kind, int] = {}
        for experiment, step, place in ready:
            settings = place.settings
            if settings.pack_above == 0:
                continue
            base = default_resources(settings)
            kind = (step, settings.resources_of(step, experiment=experiment, base=base))
            groups.setdefault(kind, []).append(experiment)
            above[kind] = settings.pack_above
        places = {step: place for _, step, place in ready}
        return [
            names
            for kind, names in groups.items()
            if len(names) > above[kind] and kind not in self._refused and self._is_small(kind, place=places[kind[0]])
        ]

    def expect_s(self, step: str) -> float | None:
        """Seconds that a step takes, judged by other experiments; None where it never ran."""
        if step not in self._expected:
            from morphseq_dagster.lineage.experience import Experience  # lineage knows places

            found = Experience(self._workspace).estimate(step, experiment="")
            self._expected[step] = None if found is None else found.seconds
        return self._expected[step]

    def refuse(self, step: str, *, resources: Resources) -> None:
        """Never choose a step with these resources again: the cluster has no node for several at once."""
        self._refused.add((step, resources))

    def _is_small(self, kind: _Kind, *, place: SlurmPlace) -> bool:
        step, resources = kind
        own = place.settings.steps.get(step)
        # GPUs are given to a job as a whole; several members would not know whose is which.
        if resources.gpus is not None or (own is not None and own.small is False):
            return False
        if own is not None and own.small:
            return True
        expected = self.expect_s(step)
        return expected is not None and expected <= SMALL_S


def sort_alike(resources: Sequence[Resources]) -> list[list[int]]:
    """Sort positions by equal resources; an attempt after a failure may ask for more."""
    found: dict[Resources, list[int]] = {}
    for number, one in enumerate(resources):
        found.setdefault(one, []).append(number)
    return list(found.values())
