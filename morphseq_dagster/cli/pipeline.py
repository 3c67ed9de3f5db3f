"""`morphseq pipeline`: run the stages of chosen experiments through the same assets as the web page."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Final

import typer

from morphseq_dagster.cli.choice import ALL, Selection, choose_experiments
from morphseq_dagster.cli.messages import printable
from morphseq_dagster.cli.options import (
    DEFAULT_REGISTRY,
    Call,
    DataRoot,
    Experiments,
    RegistryName,
    Verbose,
    open_call,
    refusing_call,
    split_names,
)
from morphseq_dagster.engine.contract.step import Registry
from morphseq_dagster.errors import PermanentError

if TYPE_CHECKING:
    from morphseq_dagster.engine.planner.rules import StepPlan

_LATENTS: Final = "latents"


class Action(StrEnum):
    """Stages by the lab's names; each runs with everything before it."""

    e2e = "e2e"
    build01 = "build01"
    sam2 = "sam2"
    build03 = "build03"
    build04 = "build04"
    build06 = "build06"


def pipeline(
    action: Annotated[Action, typer.Argument(help="What to run; everything before it that is needed runs too.")] = (
        Action.e2e
    ),
    *,
    experiments: Experiments = None,
    later_than: Annotated[str | None, typer.Option(help="Only experiments after this day, YYYYMMDD.")] = None,
    earlier_than: Annotated[str | None, typer.Option(help="Only experiments before this day, YYYYMMDD.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Compute the action's own steps again.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would run and why; write nothing.")] = False,
    model_name: Annotated[
        str | None, typer.Option("--model-name", help="Latent model, written to the recipes of these experiments.")
    ] = None,
    data_root: DataRoot = None,
    verbose: Verbose = False,
    registry: RegistryName = DEFAULT_REGISTRY,
) -> None:
    """Run experiments from raw files to tables; whatever is done already stands.

    Without --experiments every experiment that is ready runs. Exit code: 0 done, 1 some failed, 2 wrongly asked.
    """
    call = open_call(data_root, registry=registry)
    with refusing_call():
        names = None if experiments is None else split_names(experiments)
        if force and names is None:
            raise PermanentError(
                expected="the experiments to compute again",
                found="--force alone",
                where="morphseq pipeline",
                remedy=f"name them with --experiments; `--experiments {ALL}` takes every one",
            )
        choice = choose_experiments(
            call.workspace.layout, names=names, later_than=later_than, earlier_than=earlier_than
        )
        own, steps = steps_of(action, registry=call.workspace.registry)
    _tell_choice(choice)
    if model_name is not None:
        _set_model(call, experiments=choice.experiments, model=model_name, dry_run=dry_run)
    plans, broken = _plan(call, experiments=choice.experiments, steps=steps, forced=own if force else frozenset())
    failures = len(choice.refused) + len(broken)
    from morphseq_dagster.cli.bulk import goes_as_bulk, run_bulk

    chains = {experiment: [verdict.step for verdict in plan] for experiment, plan in plans.items()}
    bulk = goes_as_bulk(call, chains=chains)
    if dry_run:
        _tell_plans(plans, total=len(steps), bulk=bulk)
    elif bulk:
        failures += run_bulk(call, chains=chains, steps=own, force=force, verbose=verbose)
    else:
        forced = [spec.name for spec in call.workspace.registry.steps if spec.name in own] if force else []
        failures += run_plans(call, plans=plans, forced=forced, verbose=verbose)
    raise typer.Exit(1 if failures else 0)


def steps_of(action: Action, *, registry: Registry) -> tuple[frozenset[str], frozenset[str]]:
    """Steps of an action alone, and with everything before them.

    Raises
    ------
    PermanentError
        When the registry has no such stage.
    """
    stages = {action.value, _LATENTS} if action is Action.build06 else {action.value}
    own = frozenset(s.name for s in registry.steps if action is Action.e2e or s.stage in stages)
    if not own:
        raise PermanentError(
            expected="a stage of this registry",
            found=action.value,
            where="morphseq pipeline",
            remedy=f"use {Action.e2e.value}",
        )
    return own, frozenset(registry.ancestors(set(own)))


def run_plans(
    call: Call, *, plans: Mapping[str, Sequence[StepPlan]], forced: Sequence[str] = (), verbose: bool = False
) -> int:
    """Run what is pending, one experiment after the other; return how many failed."""
    todo = {experiment: plan for experiment, plan in plans.items() if plan}
    for experiment in plans:
        if experiment not in todo:
            print(f"{experiment}: nothing to do")
    if not todo:
        return 0
    from morphseq_dagster.cli.display import Display
    from morphseq_dagster.cli.launch import Launcher, open_instance

    failures = 0
    with open_instance() as (instance, lasting), Display(total=sum(map(len, todo.values()))) as display:
        if not lasting:
            display.say("DAGSTER_HOME is not set: the web page will not show these runs; the records will")
        launcher = Launcher(call, instance=instance, verbose=verbose)
        for experiment, plan in todo.items():
            display.begin(experiment)
            steps = [pending.step for pending in plan]
            outcome = launcher.run(
                experiment,
                steps=steps,
                forced=[name for name in forced if name in steps],
                on_event=display.note,
                on_progress=display.progress,
            )
            display.finish(outcome)
            failures += bool(outcome.failed)
    return failures


def _tell_choice(choice: Selection) -> None:
    for name, reason in choice.waiting:
        print(f"{printable(name)}: left out, {printable(reason)}")
    for name, reason in choice.refused:
        print(f"{printable(name)}: refused, {printable(reason)}", file=sys.stderr)
    if not (choice.experiments or choice.refused):
        print("no experiment is chosen")


def _set_model(call: Call, *, experiments: Sequence[str], model: str, dry_run: bool) -> None:
    from morphseq_dagster.engine.storage.recipe_files import check_parameter, set_parameter
    from morphseq_dagster.latents.backends import load_embedder

    spec = next((s for s in call.workspace.registry.steps if s.name == _LATENTS), None)
    with refusing_call():
        if spec is None:
            raise PermanentError(
                expected="a registry with a step latents", found=call.registry, where="--model-name", remedy="omit it"
            )
        check_parameter(spec.recipe, name="model", value=model)
        load_embedder(model)
    for experiment in experiments:
        path = call.workspace.layout.recipes(experiment)[1]
        if dry_run:
            print(f"{path}: latents.model would become {model!r} (dry run: not written, the plan below is without it)")
        elif set_parameter(path, section=_LATENTS, name="model", value=model):
            print(f"{path}: latents.model = {model!r} written")


def _plan(
    call: Call, *, experiments: Sequence[str], steps: frozenset[str], forced: frozenset[str]
) -> tuple[dict[str, tuple[StepPlan, ...]], dict[str, str]]:
    """Plan every experiment; one whose plan cannot be made is reported and left out."""
    from morphseq_dagster.engine.planner.plan import plan_experiments
    from morphseq_dagster.engine.planner.scans import Scans

    plans: dict[str, tuple[StepPlan, ...]] = {}
    broken: dict[str, str] = {}
    scans = Scans(call.workspace.layout)
    for plan in plan_experiments(call.workspace, experiments=experiments, steps=steps, forced=forced, scans=scans):
        if plan.problem:
            broken[plan.experiment] = plan.problem
            print(f"{plan.experiment}: error: {printable(plan.problem)}", file=sys.stderr)
        else:
            plans[plan.experiment] = plan.pending
    return plans, broken


def _tell_plans(plans: Mapping[str, Sequence[StepPlan]], *, total: int, bulk: bool) -> None:
    from morphseq_dagster.cluster.run_mode import describe_way
    from morphseq_dagster.engine.planner.costs import describe_cost, estimate_cost

    for experiment, plan in plans.items():
        if not plan:
            print(f"{experiment}: nothing to do")
            continue
        print(f"{experiment}: would run {len(plan)} of {total} steps, {describe_cost(estimate_cost(plan))}")
        for verdict in plan:
            doubt = "" if verdict.certain else " (only if that gives other content)"
            print(f"  {verdict.step:<22}{printable(verdict.reason)}{doubt}")
    if len(plans) > 1 and any(plans.values()):
        every = [verdict for plan in plans.values() for verdict in plan]
        cost = describe_cost(estimate_cost(every))
        print(f"in all: {len(every)} steps, {cost}, {describe_way(bulk=bulk)}")
