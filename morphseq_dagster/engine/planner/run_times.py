"""Run-time estimates: what a run would take, from the times of the last computations.

A step that never ran for an experiment is estimated from the same step of other experiments; one that ran nowhere is
counted, not guessed. What is stale is decided in `rules.py`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from statistics import median
from typing import Final

from morphseq_dagster.engine.planner.facts import ExperimentFacts
from morphseq_dagster.engine.planner.snapshot import find_recorded
from morphseq_dagster.engine.planner.step_plans import Estimate, ExperimentPlan, StepPlan
from morphseq_dagster.engine.storage.records import Record, read_record
from morphseq_dagster.engine.workspace import Workspace
from morphseq_dagster.errors import MorphseqError

SAMPLE: Final = 20
"""Experiments asked per step, the last by name: names begin with the day, and the last are most like the next."""
_WELLS_COMPUTED: Final = "wells_computed"
_UNITS: Final = ((86400.0, "d"), (3600.0, "h"), (60.0, "min"))


@dataclass(frozen=True)
class _Run:
    """One whole computation elsewhere: seconds, and wells where the step works well by well (else 0)."""

    experiment: str
    seconds: float
    wells: int


class RunTimes:
    """What steps took in the experiments of a data root; read when first asked, once per step.

    Parameters
    ----------
    workspace
        Data root and pipeline.
    """

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self._runs: dict[str, tuple[_Run, ...]] = {}

    def estimate(self, step: str, *, experiment: str, wells: int = 0) -> Estimate | None:
        """Judge a step by other experiments; None when none of them computed it.

        Parameters
        ----------
        step, experiment
            What would run.
        wells
            Wells of the experiment, 0 where they are not known yet: then whole experiments are compared, else wells.
        """
        if step not in self._runs:
            self._runs[step] = self._read(step)
        runs = [run for run in self._runs[step] if run.experiment != experiment]
        if not runs:
            return None
        by_wells = [run for run in runs if run.wells]
        if wells and by_wells:
            return Estimate(wells * median(run.seconds / run.wells for run in by_wells), len(by_wells))
        return Estimate(median(run.seconds for run in runs), len(runs))

    @cached_property
    def _experiments(self) -> tuple[str, ...]:
        return tuple(reversed(find_recorded(self._workspace)))

    def _read(self, step: str) -> tuple[_Run, ...]:
        found: list[_Run] = []
        for experiment in self._experiments:
            try:
                primary = self._workspace.output(step, experiment=experiment)
                record = read_record(self._workspace.layout, primary=primary)
            except (MorphseqError, OSError):
                continue  # `morphseq status` names it; here it counts for nothing
            if record is not None and _is_whole(record):
                found.append(_Run(experiment, record.seconds, len(record.wells)))
            if len(found) > SAMPLE:  # one more, since the experiment itself may be among them
                break
        return tuple(found)


def add_estimates(plan: ExperimentPlan, *, facts: ExperimentFacts, experience: RunTimes) -> ExperimentPlan:
    """Give every step of a plan that never ran here the time that it took elsewhere."""
    if all(verdict.seconds is not None for verdict in plan.pending):
        return plan
    wells = max((len(f.record.wells) for f in facts.steps.values() if f.record is not None), default=0)
    verdicts = tuple(
        replace(v, estimate=experience.estimate(v.step, experiment=plan.experiment, wells=wells))
        if v.runs and v.seconds is None
        else v
        for v in plan.verdicts
    )
    return replace(plan, verdicts=verdicts)


def _is_whole(record: Record) -> bool:
    """Whether the recorded time is that of computing everything: adopted files took none, repaired wells little."""
    computed = record.counts.get(_WELLS_COMPUTED, len(record.wells))
    return record.origin == "computed" and computed >= len(record.wells)


@dataclass(frozen=True)
class Cost:
    """Expected wall time.

    Parameters
    ----------
    least_s
        Seconds of the steps that will compute for sure.
    most_s
        Seconds if all of them compute.
    unknown
        Steps that never ran anywhere, in neither sum.
    estimated
        Steps in the sums that are judged by other experiments.
    experiments
        The most experiments that one of these is judged by.
    """

    least_s: float
    most_s: float
    unknown: int
    estimated: int = 0
    experiments: int = 0


def estimate_cost(verdicts: Iterable[StepPlan]) -> Cost:
    """Add up the last times of the steps that a run covers."""
    runs = [verdict for verdict in verdicts if verdict.runs]
    judged = [verdict.estimate for verdict in runs if verdict.seconds is None and verdict.estimate is not None]
    known = [(verdict.seconds, verdict.certain) for verdict in runs if verdict.seconds is not None]
    known += [(v.estimate.seconds, v.certain) for v in runs if v.seconds is None and v.estimate is not None]
    return Cost(
        least_s=sum(seconds for seconds, certain in known if certain),
        most_s=sum(seconds for seconds, _ in known),
        unknown=len(runs) - len(known),
        estimated=len(judged),
        experiments=max((estimate.experiments for estimate in judged), default=0),
    )


def describe_cost(cost: Cost) -> str:
    """Say a cost in words."""
    parts = []
    if cost.most_s > 0 or cost.estimated or not cost.unknown:
        least, most = span(cost.least_s), span(cost.most_s)
        text = f"about {most}" if least == most else f"{'about ' if cost.estimated else ''}{least} to {most}"
        others = f"{cost.experiments} other experiment{'s' if cost.experiments != 1 else ''}"
        parts.append(text + (f" ({cost.estimated} of them judged by {others})" if cost.estimated else ""))
    if cost.unknown:
        parts.append(f"{cost.unknown} of unknown cost (never run)")
    return " and ".join(parts)


def span(seconds: float) -> str:
    """Length of time for people."""
    for length, unit in _UNITS:
        if seconds >= length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.0f} s"
