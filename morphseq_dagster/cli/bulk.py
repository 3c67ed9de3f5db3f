"""Bulk: the way of `morphseq pipeline` over many experiments when steps run at the cluster - one run, one process.

Holds the choice of the way, and the run with its lines. The run itself is the job `bulk`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Final

from morphseq_dagster.cli.options import Call
from morphseq_dagster.places.outcome import SLURM

if TYPE_CHECKING:
    from morphseq_dagster.lineage.planner import Verdict
    from morphseq_dagster.places.campaign import Item

MOST_SINGLE_RUNS: Final = 8
"""Experiments up to which each has a run of its own also when its steps run at the cluster."""


def wants_bulk(call: Call, *, plans: Mapping[str, Sequence[Verdict]]) -> bool:
    """Whether the experiments go as one run: there are many, and a step that must run does so at the cluster."""
    todo = {experiment: plan for experiment, plan in plans.items() if plan}
    return len(todo) > MOST_SINGLE_RUNS and any(
        call.settings.place_of(verdict.step, experiment=experiment) == SLURM
        for experiment, plan in todo.items()
        for verdict in plan
    )


def run_bulk(
    call: Call,
    *,
    plans: Mapping[str, Sequence[Verdict]],
    steps: Collection[str],
    force: bool = False,
    verbose: bool = False,
) -> int:
    """Run what is pending of many experiments as one run; return how many failed.

    Parameters
    ----------
    call
        Settings, workspace and registry.
    plans
        What is pending, by experiment.
    steps
        The steps that were asked for.
    force
        Compute these although nothing changed.
    verbose
        Whether Dagster's own log is shown.
    """
    from morphseq_dagster.cli.display import Display
    from morphseq_dagster.cli.launch import Launcher, StepEvent, open_instance
    from morphseq_dagster.places.campaign import Failed, Made

    chains = {experiment: [verdict.step for verdict in plan] for experiment, plan in plans.items() if plan}
    for experiment in plans:
        if experiment not in chains:
            print(f"{experiment}: nothing to do")
    ordered = [spec.name for spec in call.workspace.registry.steps if spec.name in steps]
    with open_instance() as (instance, lasting), Display(total=sum(map(len, chains.values()))) as display:
        if not lasting:
            display.say("DAGSTER_HOME is not set: the web page will not show these runs; the records will")
        display.say(f"one run over {len(chains)} experiments")

        def show(item: Item) -> None:
            display.begin(item.experiment)
            kind = "failed" if isinstance(item, Failed) else "made" if isinstance(item, Made) else "standing"
            display.note(StepEvent(item.step, kind, str(item.error) if isinstance(item, Failed) else ""))

        outcomes = Launcher(call, instance=instance, verbose=verbose).run_bulk(
            chains, steps=ordered, force=force, on_item=show
        )
        for outcome in outcomes:
            display.finish(outcome)
            if outcome.failed and outcome.failed[0][0] == "":
                display.say(f"{outcome.experiment}: {outcome.failed[0][1]}")
    return sum(bool(outcome.failed) for outcome in outcomes)
