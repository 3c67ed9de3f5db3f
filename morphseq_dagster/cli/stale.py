"""`morphseq stale`: what is stale in all experiments, why, at what cost, and - with `--launch` - mend just that."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from morphseq_dagster.cli.messages import group_lines, print_json, printable
from morphseq_dagster.cli.options import Call, Experiments, Form, Format, refusing_call, split_names, verb

if TYPE_CHECKING:
    from morphseq_dagster.engine.planner.step_plans import ExperimentPlan


@verb(example="morphseq stale --experiments 20250529_ctrl")
def stale(
    call: Call,
    *,
    experiments: Experiments = None,
    launch: Annotated[bool, typer.Option("--launch", help="Run what is stale.")] = False,
    form: Form = Format.table,
) -> None:
    """List what is stale in all experiments, and why.

    Every raw folder and picture is looked at now. Steps whose output you edited by hand, that failed too often for the
    same reason or that miss an input are listed and left to you. Experiments at work are left out.
    """
    with refusing_call():
        names, left_out = _choose(call, names=None if experiments is None else split_names(experiments))
    plans = _plan(call, names=names)
    concerned = [plan for plan in plans if plan.pending or plan.held or plan.problem or plan.busy]
    if form is Format.json:
        print_json(_encode(concerned, data_root=str(call.workspace.data_root)))
    else:
        entries = [(name, f": left out, {reason}") for name, reason in left_out]
        lines = list(group_lines(entries, everything=call.verbose))
        lines += _draw(concerned, total=len(plans), way=_way(call, plans=concerned), verbose=call.verbose)
        print("\n".join(printable(line) for line in lines))
    if launch:
        raise typer.Exit(_launch(call, plans=concerned))
    raise typer.Exit(1 if any(plan.problem for plan in plans) else 0)


def _choose(call: Call, *, names: Sequence[str] | None) -> tuple[list[str], list[tuple[str, str]]]:
    """Experiments to plan, and those left out with the reason: files still arrive, or the name is refused.

    Unless they are named, experiments without a raw folder count too if they have records.
    """
    from morphseq_dagster.cli.choice import Selection, choose_experiments
    from morphseq_dagster.engine.planner.retirement import read_retired
    from morphseq_dagster.engine.planner.snapshot import find_recorded

    pipeline = call.workspace.pipeline
    recorded = set(find_recorded(call.workspace))
    folders = {source.name for source in pipeline.find_sources(call.workspace.layout)}
    gone = recorded - folders - read_retired(call.workspace)
    archived = sorted(name for name in gone if pipeline.keys.refuse(name) is None)
    if names is not None:
        archived = [name for name in archived if name in names]
        names = [name for name in names if name not in archived]
    choice = choose_experiments(call.workspace, names=names) if names is None or names else Selection(())
    return sorted({*choice.experiments, *archived}), [*choice.waiting, *choice.refused]


def _plan(call: Call, *, names: Sequence[str]) -> list[ExperimentPlan]:
    """Plan with everything looked at now; what was seen is kept for quicker looks."""
    from morphseq_dagster.engine.planner.plan import plan_experiments
    from morphseq_dagster.engine.planner.scans import Scans

    scans = Scans(call.workspace.layout)
    plans = list(plan_experiments(call.workspace, experiments=names, scans=scans))
    scans.save()
    return plans


def _launch(call: Call, *, plans: Sequence[ExperimentPlan]) -> int:
    """Run the automatic part of every plan; return the exit code."""
    names = [plan.experiment for plan in plans if plan.automatic and not plan.busy]
    if not names:
        print("nothing to launch")
        return 0
    from morphseq_dagster.cli.choice import goes_as_bulk
    from morphseq_dagster.cli.launch import open_instance
    from morphseq_dagster.cli.runs import run_chains
    from morphseq_dagster.engine.planner.plan import plan_experiments
    from morphseq_dagster.partitions import find_busy

    with open_instance() as (instance, _):
        # First who is at work, then the facts: a run that starts in between holds the lock of its step.
        busy = find_busy(instance, pipeline=call.workspace.pipeline)
    chains = {}
    for plan in plan_experiments(call.workspace, experiments=names, busy=busy):
        if plan.busy:
            print(printable(f"{plan.experiment}: left out, {plan.busy}"))
        elif plan.automatic:
            chains[plan.experiment] = plan.automatic
    steps = {step for chain in chains.values() for step in chain}
    bulk = goes_as_bulk(call.settings, chains=chains)
    return 1 if run_chains(call, chains, bulk=bulk, steps=steps, automatic=True) else 0


def _way(call: Call, *, plans: Sequence[ExperimentPlan]) -> str:
    """Say which way a launch would take; nothing where there is no choice."""
    from morphseq_dagster.cli.choice import goes_as_bulk
    from morphseq_dagster.runs.run_mode import describe_way

    chains = {plan.experiment: plan.automatic for plan in plans if plan.automatic and not plan.busy}
    return describe_way(bulk=goes_as_bulk(call.settings, chains=chains)) if len(chains) > 1 else ""


def _draw(plans: Sequence[ExperimentPlan], *, total: int, way: str, verbose: bool) -> Iterable[str]:
    from morphseq_dagster.engine.planner.run_times import describe_cost, estimate_cost

    for plan in plans:
        steps = f"{len(plan.pending)} steps to refresh, {describe_cost(estimate_cost(plan.pending))}"
        yield f"{plan.experiment}: {steps}" if plan.pending else f"{plan.experiment}:"
        if plan.problem:
            yield f"  {plan.problem}"
        if plan.busy:
            yield f"  left out, at work: {plan.busy}"
        for verdict in plan.verdicts:
            own = [cause for cause in verdict.causes if verbose or cause.kind != "upstream"]
            if own and (verdict.runs or verdict.held) and not plan.problem:
                yield f"  {verdict.step:<22}{'; '.join(cause.describe() for cause in own)}"
            if verdict.held and not plan.problem:
                yield f"  {'':<22}left to you: {verdict.held}"
        after = sum(all(c.kind == "upstream" for c in v.causes) for v in plan.pending)
        if after and not verbose:
            yield f"  and {after} steps after these"
    pending = [verdict for plan in plans for verdict in plan.pending]
    concerned = sum(bool(plan.pending) for plan in plans)
    cost = f": {len(pending)} steps, {describe_cost(estimate_cost(pending))}" if pending else ""
    yield f"{concerned} of {total} experiments have stale or missing steps{cost}" + (f", {way}" if way else "")


def _encode(plans: Sequence[ExperimentPlan], *, data_root: str) -> dict[str, Any]:
    from morphseq_dagster.engine.planner.step_plans import encode_plan

    return {
        "schema": "morphseq.stale",
        "version": 1,
        "data_root": data_root,
        "experiments": [encode_plan(plan) for plan in plans],
    }
