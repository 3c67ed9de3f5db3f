"""`morphseq pipeline`: run the stages of chosen experiments through the same assets as the web page."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Final

import typer

from morphseq_dagster.cli.choice import ALL, choose_experiments, goes_as_bulk, show_choice
from morphseq_dagster.cli.messages import group_lines, printable
from morphseq_dagster.cli.options import Call, Experiments, check_choice, refusing_call, split_names, verb
from morphseq_dagster.cli.runs import run_chains
from morphseq_dagster.engine.pipeline import Pipeline
from morphseq_dagster.errors import PermanentError
from morphseq_dagster.morphseq.pipeline import MORPHSEQ

if TYPE_CHECKING:
    from morphseq_dagster.engine.planner.step_plans import StepPlan

_LATENTS: Final = "latents"
E2E: Final = "e2e"
"""Goal of every pipeline: all steps."""


@verb(example="morphseq pipeline --experiments 20250529_ctrl --dry-run")
def pipeline(
    call: Call,
    action: Annotated[
        str,
        typer.Argument(
            help=f"What to run, with everything before it that is needed: {E2E} (all), {', '.join(MORPHSEQ.goals)}.",
        ),
    ] = E2E,
    *,
    experiments: Experiments = None,
    later_than: Annotated[str | None, typer.Option(help="Only experiments after this day, YYYYMMDD.")] = None,
    earlier_than: Annotated[str | None, typer.Option(help="Only experiments before this day, YYYYMMDD.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Compute the action's own steps again.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would run and why; write nothing.")] = False,
    model_name: Annotated[
        str | None, typer.Option("--model-name", help="Latent model, written to the recipes of these experiments.")
    ] = None,
) -> None:
    """Run experiments from raw files to tables.

    What is up to date stands. Without --experiments every experiment that is ready runs. Exit code: 0 done, 1 some
    failed, 2 the command is wrong.
    """
    with refusing_call():
        names = None if experiments is None else split_names(experiments)
        if force and names is None:
            raise PermanentError(
                expected="the experiments to compute again",
                found="--force alone",
                where="morphseq pipeline",
                remedy=f"name them with --experiments; `--experiments {ALL}` takes every one",
            )
        choice = choose_experiments(call.workspace, names=names, later_than=later_than, earlier_than=earlier_than)
        own, steps = steps_of(action, pipeline=call.workspace.pipeline)
    show_choice(choice, verbose=call.verbose)
    if model_name is not None:
        _set_model(call, experiments=choice.experiments, model=model_name, dry_run=dry_run)
    plans, broken = _plan(call, experiments=choice.experiments, steps=steps, forced=own if force else frozenset())
    for line in group_lines(
        [(name, f": error: {problem}") for name, problem in broken.items()], everything=call.verbose
    ):
        print(line, file=sys.stderr)
    failures = len(choice.refused) + len(broken)
    chains = {experiment: [verdict.step for verdict in plan] for experiment, plan in plans.items()}
    bulk = goes_as_bulk(call.settings, chains=chains)
    if dry_run:
        _show_plans(plans, total=len(steps), bulk=bulk, verbose=call.verbose)
    else:
        failures += run_chains(call, chains, bulk=bulk, steps=own, force=force)
    raise typer.Exit(1 if failures else 0)


def steps_of(goal: str, *, pipeline: Pipeline) -> tuple[frozenset[str], frozenset[str]]:
    """Steps of a goal alone, and with everything before them.

    Raises
    ------
    PermanentError
        When the pipeline has no such goal.
    """
    goals = {E2E: frozenset(pipeline.step_names)} | {name: pipeline.steps_of(name) for name in pipeline.goals}
    check_choice(goal, known=[name for name, steps in goals.items() if steps], where="morphseq pipeline")
    own = goals[goal]
    return own, frozenset(pipeline.ancestors(set(own)))


def _set_model(call: Call, *, experiments: Sequence[str], model: str, dry_run: bool) -> None:
    from morphseq_dagster.engine.storage.recipe_files import check_parameter, set_parameter
    from morphseq_dagster.latents.backends import EMBEDDERS

    spec = next((s for s in call.workspace.pipeline.steps if s.name == _LATENTS), None)
    with refusing_call():
        if spec is None:
            raise PermanentError(
                expected="a pipeline with a step latents", found=call.pipeline, where="--model-name", remedy="omit it"
            )
        check_parameter(spec.recipe, name="model", value=model)
        EMBEDDERS.find(model)
    for experiment in experiments:
        path = call.workspace.layout.recipes(experiment)[1]
        if dry_run:
            print(f"{path}: latents.model would become {model!r} (dry run: not written, the plan below is without it)")
        elif set_parameter(path, section=_LATENTS, name="model", value=model):
            print(f"{path}: latents.model = {model!r} written")


def _plan(
    call: Call, *, experiments: Sequence[str], steps: frozenset[str], forced: frozenset[str]
) -> tuple[dict[str, tuple[StepPlan, ...]], dict[str, str]]:
    """Plan every experiment; those whose plan cannot be made, with the reason, apart."""
    from morphseq_dagster.engine.planner.plan import plan_experiments
    from morphseq_dagster.engine.planner.scans import Scans

    plans: dict[str, tuple[StepPlan, ...]] = {}
    broken: dict[str, str] = {}
    scans = Scans(call.workspace.layout)
    for plan in plan_experiments(call.workspace, experiments=experiments, steps=steps, forced=forced, scans=scans):
        if plan.problem:
            broken[plan.experiment] = plan.problem
        else:
            plans[plan.experiment] = plan.pending
    return plans, broken


def _show_plans(plans: Mapping[str, Sequence[StepPlan]], *, total: int, bulk: bool, verbose: bool) -> None:
    from morphseq_dagster.engine.planner.run_times import describe_cost, estimate_cost
    from morphseq_dagster.runs.run_mode import describe_way

    idle = [(experiment, ": nothing to do") for experiment, plan in plans.items() if not plan]
    print("".join(f"{line}\n" for line in group_lines(idle, everything=verbose)), end="")
    for experiment, plan in plans.items():
        if not plan:
            continue
        print(f"{experiment}: would run {len(plan)} of {total} steps, {describe_cost(estimate_cost(plan))}")
        for verdict in plan:
            doubt = "" if verdict.certain else " (only if that gives other content)"
            print(f"  {verdict.step:<22}{printable(verdict.reason)}{doubt}")
    if len(plans) > 1 and any(plans.values()):
        every = [verdict for plan in plans.values() for verdict in plan]
        cost = describe_cost(estimate_cost(every))
        print(f"in all: {len(every)} steps, {cost}, {describe_way(bulk=bulk)}")
