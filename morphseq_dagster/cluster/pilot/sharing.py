"""Sharing: which requests go as one pilot job - a small step of many experiments, several steps of one, or both.

This is the choice alone. `job.py` submits a pilot job, and `bulk_run.py` asks for the choice and waits for the jobs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import takewhile
from typing import Final

from morphseq_dagster.cluster.connection import default_resources
from morphseq_dagster.cluster.executor import SlurmExecutor
from morphseq_dagster.engine.planner.run_times import RunTimes
from morphseq_dagster.engine.workspace import Workspace
from morphseq_dagster.settings.job_values import Resources
from morphseq_dagster.settings.slurm import SlurmSettings

SMALL_S: Final = 60.0
"""A step is small that takes this long at most: beside it the start of a job of its own would count."""

NOBODY: Final[Mapping[str, int]] = {}
_Kind = tuple[str, Resources]


@dataclass(frozen=True)
class Ready:
    """An experiment whose next step could be submitted now.

    Parameters
    ----------
    experiment, place
        Which, and where.
    steps
        That step, and those after it that could be made by the same job.
    again
        Whether it comes back from an allocation that has ended.
    """

    experiment: str
    steps: tuple[str, ...]
    place: SlurmExecutor
    again: bool = False


@dataclass(frozen=True)
class Share:
    """Experiments that share an allocation, or one that has it for several of its steps.

    Parameters
    ----------
    step, resources
        What each does first, and what it asks for.
    experiments
        Which.
    then
        Steps that the job goes on with by itself.
    workers
        Experiments at work at once.
    settings
        Section `places.slurm` of the machine settings.
    """

    step: str
    resources: Resources
    experiments: tuple[str, ...]
    then: tuple[str, ...]
    workers: int
    settings: SlurmSettings


@dataclass(frozen=True)
class SharingPlan:
    """What becomes of experiments that are ready.

    Parameters
    ----------
    shares
        What goes as one job. What is in none of them has a job of its own, for its one step.
    awaiting
        Experiments that wait for others to share with: enough of them are on their way.
    """

    shares: tuple[Share, ...]
    awaiting: frozenset[str]


class Sharing:
    """The choices of one bulk run.

    Parameters
    ----------
    workspace
        Data root and pipeline; its records say how long steps took.
    """

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self._expected: dict[str, float | None] = {}
        self._refused: set[_Kind] = set()

    def choose(
        self,
        ready: Iterable[Ready],
        *,
        coming: Mapping[str, int] = NOBODY,
        at_work: Mapping[str, int] = NOBODY,
    ) -> SharingPlan:
        """Choose what goes as one job.

        Parameters
        ----------
        ready
            Experiments that could go now.
        coming
            Step to the number of experiments that are at work in an allocation with others and will come to it.
        at_work
            Step to the number of those that are at this very step: one that comes back is rarely the only one.
        """
        groups: dict[tuple[_Kind, tuple[str, ...]], list[Ready]] = {}
        alone = []
        for one in ready:
            resources = self._resources(one, one.steps[0])
            if (one.steps[0], resources) in self._refused:
                continue
            if one.place.settings.pack_above and self._is_small(one, one.steps[0], resources=resources):
                # A long step would keep the other experiments waiting.
                then = tuple(takewhile(partial(self._is_small, one), self._follow(one)))
                groups.setdefault(((one.steps[0], resources), then), []).append(one)
            else:
                alone.append(one)
        shares, awaiting = [], set()
        for ((step, resources), then), tasks in groups.items():
            settings = tasks[0].place.settings
            names = tuple(one.experiment for one in tasks)
            if len(tasks) > settings.pack_above:
                shares.append(Share(step, resources, names, then, settings.pack_workers, settings))
            elif len(tasks) + _expect(tasks, coming=coming, at_work=at_work) > settings.pack_above:
                awaiting |= set(names)
            else:
                alone += tasks
        for one in alone:
            then = self._follow(one)
            if then:
                resources = self._resources(one, one.steps[0])
                shares.append(Share(one.steps[0], resources, (one.experiment,), then, 1, one.place.settings))
        return SharingPlan(tuple(shares), frozenset(awaiting))

    def _follow(self, one: Ready) -> tuple[str, ...]:
        """Steps that a job of the first may go on with: they ask for the same."""
        if not one.place.settings.chain:
            return ()
        wanted = self._resources(one, one.steps[0])
        return tuple(takewhile(lambda step: self._resources(one, step) == wanted, one.steps[1:]))

    def _resources(self, one: Ready, step: str) -> Resources:
        settings = one.place.settings
        return settings.resources_of(step, experiment=one.experiment, base=default_resources(settings))

    def expect_s(self, step: str) -> float | None:
        """Seconds that a step takes, judged by other experiments; None where it never ran."""
        if step not in self._expected:
            found = RunTimes(self._workspace).estimate(step, experiment="")
            self._expected[step] = None if found is None else found.seconds
        return self._expected[step]

    def refuse(self, step: str, *, resources: Resources) -> None:
        """Never choose a step with these resources again: the cluster has no node for several at once."""
        self._refused.add((step, resources))

    def _is_small(self, one: Ready, step: str, *, resources: Resources | None = None) -> bool:
        own = one.place.settings.steps.get(step)
        # GPUs are given to a job as a whole; several tasks would not know whose is which.
        if (resources or self._resources(one, step)).gpus is not None or (own is not None and own.small is False):
            return False
        if own is not None and own.small:
            return True
        expected = self.expect_s(step)
        return expected is not None and expected <= SMALL_S


def _expect(tasks: Sequence[Ready], *, coming: Mapping[str, int], at_work: Mapping[str, int]) -> int:
    """Experiments that may soon be ready for the same."""
    step = tasks[0].steps[0]
    return coming.get(step, 0) + (at_work.get(step, 0) if any(one.again for one in tasks) else 0)


def sort_alike(resources: Sequence[Resources]) -> list[list[int]]:
    """Sort positions by equal resources; an attempt after a failure may ask for more."""
    found: dict[Resources, list[int]] = {}
    for number, one in enumerate(resources):
        found.setdefault(one, []).append(number)
    return list(found.values())
