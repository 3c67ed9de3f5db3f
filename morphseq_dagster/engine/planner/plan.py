"""Plan: facts read (`facts.py`) and judged (`rules.py`) in one go, for one experiment or a thousand."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet

from morphseq_dagster.engine.planner.facts import read_facts
from morphseq_dagster.engine.planner.rules import plan_experiment
from morphseq_dagster.engine.planner.run_times import RunTimes, add_estimates
from morphseq_dagster.engine.planner.scans import Scans
from morphseq_dagster.engine.planner.step_plans import ExperimentPlan, StepPlan
from morphseq_dagster.engine.workspace import Workspace
from morphseq_dagster.errors import PermanentError

_NOBODY: Mapping[str, str] = {}


def plan_experiments(
    workspace: Workspace,
    *,
    experiments: Iterable[str],
    steps: AbstractSet[str] | None = None,
    forced: AbstractSet[str] = frozenset(),
    busy: Mapping[str, str] = _NOBODY,
    variants: Mapping[str, str] | None = None,
    scans: Scans | None = None,
) -> Iterator[ExperimentPlan]:
    """Plan experiments, one after the other, in the order given.

    Parameters
    ----------
    workspace
        Data root and pipeline.
    experiments
        Names.
    steps
        Steps to consider, with every step its ancestors; all when None.
    forced
        Steps to run whatever the records say.
    busy
        Experiment to the queued or running run that works on it. Whoever launches asks for them before calling this:
        what starts in between is then met inside the lock, while the other order would launch twice.
    variants
        Variant per step (the latent model) to look at instead of the recipe's.
    scans
        How raw folders and image sets are looked into; everything now when None.
    """
    experience = RunTimes(workspace)
    for facts in read_facts(workspace, experiments=experiments, scans=scans, variants=variants):
        plan = plan_experiment(
            facts, pipeline=workspace.pipeline, steps=steps, forced=forced, busy=busy.get(facts.experiment, "")
        )
        yield add_estimates(plan, facts=facts, experience=experience)


def find_pending(
    workspace: Workspace, *, experiment: str, steps: AbstractSet[str], forced: AbstractSet[str] = frozenset()
) -> tuple[StepPlan, ...]:
    """Find the steps of one experiment that a run must cover, in order.

    Raises
    ------
    PermanentError
        When the experiment's recipe cannot be resolved.
    """
    workspace.recipe(experiment)
    plan = next(plan_experiments(workspace, experiments=(experiment,), steps=steps, forced=forced))
    return plan.pending


def needs_bytes(workspace: Workspace, *, experiment: str, step: str) -> bool:
    """Whether a step after this pruned one will run and read its bytes."""
    (plan,) = plan_experiments(workspace, experiments=(experiment,))
    if plan.problem:
        raise PermanentError(
            expected="a recipe that can be resolved",
            found=plan.problem,
            where=f"experiment {experiment}",
            remedy="correct the named entries",
        )
    return step in plan.rebuilt
