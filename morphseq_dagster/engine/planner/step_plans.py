"""Plans of steps: what the planner finds about a step and an experiment, as values.

The rules that make them are in `rules.py`, the causes that they name in `causes.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from morphseq_dagster.engine.planner.causes import Cause

Freshness = Literal["fresh", "pruned", "kept", "stale"]


@dataclass(frozen=True)
class Estimate:
    """Time that a step may take, and the number of other experiments that it is judged by."""

    seconds: float
    experiments: int


@dataclass(frozen=True)
class StepPlan:
    """Judgement of one step.

    Parameters
    ----------
    step
        Name.
    causes
        Reasons, own ones before those of steps upstream; empty when fresh.
    freshness
        `fresh`; `pruned` (fresh, its bytes are gone by intent); `kept` (a declared edit by hand stands); `stale`.
    runs
        Whether a run must cover the step.
    certain
        Whether it will compute for sure; otherwise the run may find that nothing changed for it.
    held
        Why automation leaves it alone; empty when it does not. What a person asks for runs all the same.
    seconds
        Wall time that computing it took last time; None when it never did.
    estimate
        In place of the time, where the step never ran: what it took elsewhere; None when nobody knows.
    """

    step: str
    causes: tuple[Cause, ...] = ()
    freshness: Freshness = "fresh"
    runs: bool = False
    certain: bool = False
    held: str = ""
    seconds: float | None = None
    estimate: Estimate | None = None

    @property
    def reason(self) -> str:
        """All causes in one line."""
        return "; ".join(cause.describe() for cause in self.causes)


@dataclass(frozen=True)
class ExperimentPlan:
    """Judgement of one experiment.

    Parameters
    ----------
    experiment
        Name.
    verdicts
        Per step, in an order in which they can run.
    busy
        Who works on the experiment; empty when nobody does. A busy experiment is not launched.
    problem
        Why nothing is known, because of the recipe mostly; empty when all is well.
    automatic
        Steps that automation may launch: the closure without what is held and what comes after that.
    run_key
        Name of a launch of these steps for these reasons; equal reasons give equal names, so that a daemon which never
        launches a name twice does not retry a failing step for ever.
    """

    experiment: str
    verdicts: tuple[StepPlan, ...]
    busy: str = ""
    problem: str = ""
    automatic: tuple[str, ...] = ()
    run_key: str = ""

    @property
    def pending(self) -> tuple[StepPlan, ...]:
        """Verdicts of the steps that a run must cover, in order."""
        return tuple(verdict for verdict in self.verdicts if verdict.runs)

    @property
    def closure(self) -> tuple[str, ...]:
        """Steps that a run must cover, in order."""
        return tuple(verdict.step for verdict in self.pending)

    @property
    def held(self) -> tuple[StepPlan, ...]:
        """Verdicts that automation leaves to a person."""
        return tuple(verdict for verdict in self.verdicts if verdict.held)

    @property
    def rebuilt(self) -> tuple[str, ...]:
        """Steps that run only because their pruned bytes are needed."""
        return tuple(v.step for v in self.pending if v.freshness == "pruned")

    def verdict(self, step: str) -> StepPlan:
        """Look a verdict up by step."""
        for verdict in self.verdicts:
            if verdict.step == step:
                return verdict
        raise KeyError(step)


def encode_plan(plan: ExperimentPlan) -> dict[str, Any]:
    """Give a plan as JSON values: every step that has a cause."""
    return {
        "experiment": plan.experiment,
        "busy": plan.busy,
        "problem": plan.problem,
        "run_key": plan.run_key,
        "automatic": list(plan.automatic),
        "steps": [
            {
                "step": verdict.step,
                "freshness": verdict.freshness,
                "runs": verdict.runs,
                "certain": verdict.certain,
                "held": verdict.held,
                "seconds": verdict.seconds,
                "estimated_s": round(verdict.estimate.seconds, 1) if verdict.estimate is not None else None,
                "causes": [cause.encode() for cause in verdict.causes],
            }
            for verdict in plan.verdicts
            if verdict.causes
        ],
    }
