"""Explanations: a step in full - what changed and where, when the result was made, by which run, and at what cost.

The causes come from the rules (`rules.py`); the command line prints what is selected here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from morphseq_dagster.engine.pipeline import Pipeline
from morphseq_dagster.engine.planner.causes import Cause, shorten
from morphseq_dagster.engine.planner.facts import ExperimentFacts, StepFacts, read_facts
from morphseq_dagster.engine.planner.rules import plan_experiment
from morphseq_dagster.engine.planner.run_times import Cost, RunTimes, add_estimates, estimate_cost
from morphseq_dagster.engine.planner.step_plans import ExperimentPlan, StepPlan
from morphseq_dagster.engine.workspace import Workspace


@dataclass(frozen=True)
class ProducedBy:
    """How the published result came about; empty strings and None where there is none."""

    finished_at: str = ""
    run_id: str = ""
    host: str = ""
    place: str = ""
    seconds: float | None = None
    data_version: str = ""
    origin: str = ""


@dataclass(frozen=True)
class Explanation:
    """One step.

    Parameters
    ----------
    verdict
        Judgement with its causes.
    output
        Primary file relative to the data root.
    made
        How the published result came about.
    paths
        File per registered input or artifact that a cause names.
    origins
        Source of each recipe parameter that a cause names; absent for defaults.
    failed_at
        When the last attempt failed; empty when it did not.
    cost
        Of refreshing this step and everything after it that has to follow.
    """

    verdict: StepPlan
    output: str
    made: ProducedBy
    paths: Mapping[str, str]
    origins: Mapping[str, str]
    failed_at: str
    cost: Cost


def explain_experiment(workspace: Workspace, *, experiment: str) -> tuple[ExperimentPlan, tuple[Explanation, ...]]:
    """Explain every step of an experiment, in order."""
    (facts,) = read_facts(workspace, experiments=(experiment,))
    plan = plan_experiment(facts, pipeline=workspace.pipeline)
    plan = add_estimates(plan, facts=facts, experience=RunTimes(workspace))
    explained = tuple(_explain(v, facts=facts, plan=plan, pipeline=workspace.pipeline) for v in plan.verdicts)
    return plan, explained


def _explain(verdict: StepPlan, *, facts: ExperimentFacts, plan: ExperimentPlan, pipeline: Pipeline) -> Explanation:
    own = facts.steps[verdict.step]
    after = pipeline.descendants({verdict.step})
    inputs = {entry.name: entry.path for entry in (own.record.inputs if own.record is not None else ())}
    inputs |= {entry.name: entry.path for entry in own.externals}
    inputs |= {name: facts.steps[name].output for name in pipeline.spec(verdict.step).inputs}
    prefix = f"{verdict.step}."
    named = {cause.subject for cause in verdict.causes}
    return Explanation(
        verdict=verdict,
        output=own.output,
        made=_made(own),
        paths={name: path for name, path in inputs.items() if name in named},
        origins={k.removeprefix(prefix): v for k, v in facts.origins.items() if k.removeprefix(prefix) in named},
        failed_at=own.failure.failed_at if own.failure is not None else "",
        cost=estimate_cost(v for v in plan.pending if v.step in after) if verdict.runs else Cost(0.0, 0.0, 0),
    )


def _made(own: StepFacts) -> ProducedBy:
    record = own.record
    if record is None:
        return ProducedBy()
    return ProducedBy(
        finished_at=record.finished_at,
        run_id=record.run_id,
        host=record.host,
        place=record.place,
        seconds=record.seconds,
        data_version=record.data_version,
        origin=record.origin,
    )


def tell_cause(cause: Cause, *, explanation: Explanation) -> Iterator[str]:
    """Tell a cause in full: its line, then old and new value and where they stand."""
    yield cause.describe()
    if cause.kind in ("data", "weights", "recipe", "code"):
        yield f"  old: {_whole(cause.old)}"
        yield f"  new: {_whole(cause.new)}"
    if cause.subject in explanation.paths:
        yield f"  file: {explanation.paths[cause.subject]}"
    if cause.kind == "recipe":
        yield f"  set in: {explanation.origins.get(cause.subject, 'the defaults')}"
    if cause.kind == "failed" and explanation.failed_at:
        yield f"  at: {explanation.failed_at}"


def encode_explanation(explanation: Explanation) -> dict[str, Any]:
    """Give an explanation as JSON values."""
    verdict, made, cost = explanation.verdict, explanation.made, explanation.cost
    return {
        "step": verdict.step,
        "freshness": verdict.freshness,
        "runs": verdict.runs,
        "certain": verdict.certain,
        "held": verdict.held,
        "causes": [cause.encode() for cause in verdict.causes],
        "output": explanation.output,
        "made": {
            "finished_at": made.finished_at,
            "run_id": made.run_id,
            "host": made.host,
            "place": made.place,
            "seconds": made.seconds,
            "data_version": made.data_version,
            "origin": made.origin,
        },
        "failed_at": explanation.failed_at,
        "files": dict(explanation.paths),
        "recipe_origins": dict(explanation.origins),
        "cost": {
            "least_s": cost.least_s,
            "most_s": cost.most_s,
            "estimated_steps": cost.estimated,
            "estimated_from_experiments": cost.experiments,
            "unknown_steps": cost.unknown,
        },
    }


def _whole(value: Any) -> str:  # noqa: ANN401 - any JSON value
    return value if isinstance(value, str) else shorten(value)
