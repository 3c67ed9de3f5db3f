"""Costs: what refreshing would take, from the times of the last computations.

Holds sums and their words. A step that never ran has the time that it took in other experiments (`experience`), which
is said; where it ran nowhere it is counted, not guessed.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from morphseq_dagster.engine.planner.rules import StepPlan

_UNITS: Final = ((86400.0, "d"), (3600.0, "h"), (60.0, "min"))


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
        words = f"about {most}" if least == most else f"{'about ' if cost.estimated else ''}{least} to {most}"
        others = f"{cost.experiments} other experiment{'s' if cost.experiments != 1 else ''}"
        parts.append(words + (f" ({cost.estimated} of them judged by {others})" if cost.estimated else ""))
    if cost.unknown:
        parts.append(f"{cost.unknown} of unknown cost (never run)")
    return " and ".join(parts)


def span(seconds: float) -> str:
    """Length of time for people."""
    for length, unit in _UNITS:
        if seconds >= length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.0f} s"
