"""Bulk: the command line's way over many experiments when steps run at the cluster - one run, one process.

The choice between one run and many is made in `cluster/run_mode.py`; the run itself is the job `bulk`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

from morphseq_dagster.cli.options import Call
from morphseq_dagster.cluster.run_mode import wants_bulk

if TYPE_CHECKING:
    from morphseq_dagster.cluster.events import Event


def goes_as_bulk(call: Call, *, chains: Mapping[str, Sequence[str]]) -> bool:
    """Whether the experiments, each with the steps that it must run, go as one run on this machine."""
    settings = call.settings
    return wants_bulk(
        chains,
        place_of=lambda step, name: settings.place_of(step, experiment=name),
        chained=settings.places.chained,
    )


def run_bulk(
    call: Call,
    *,
    chains: Mapping[str, Sequence[str]],
    steps: Collection[str],
    force: bool = False,
    automatic: bool = False,
    verbose: bool = False,
) -> int:
    """Run many experiments as one run; return how many failed.

    Parameters
    ----------
    call
        Settings, workspace and registry.
    chains
        Experiment to the steps that are pending; those with none are said to be done.
    steps
        The steps that were asked for.
    force
        Compute these although nothing changed.
    automatic
        Leave alone what automation leaves to a person.
    verbose
        Whether Dagster's own log is shown.
    """
    from morphseq_dagster.cli.display import Display
    from morphseq_dagster.cli.launch import Launcher, StepEvent, open_instance
    from morphseq_dagster.cluster.events import StepFailed, StepMade

    for experiment, pending in chains.items():
        if not pending:
            print(f"{experiment}: nothing to do")
    chains = {experiment: pending for experiment, pending in chains.items() if pending}
    ordered = [spec.name for spec in call.workspace.registry.steps if spec.name in steps]
    with open_instance() as (instance, lasting), Display(total=sum(map(len, chains.values()))) as display:
        if not lasting:
            display.say("DAGSTER_HOME is not set: the web page will not show these runs; the records will")
        display.say(f"one run over {len(chains)} experiments")

        def show(item: Event) -> None:
            display.begin(item.experiment)
            kind = "failed" if isinstance(item, StepFailed) else "made" if isinstance(item, StepMade) else "standing"
            display.note(StepEvent(item.step, kind, str(item.error) if isinstance(item, StepFailed) else ""))

        outcomes = Launcher(call, instance=instance, verbose=verbose).run_bulk(
            chains, steps=ordered, force=force, automatic=automatic, on_item=show
        )
        for outcome in outcomes:
            display.finish(outcome)
            if outcome.failed and outcome.failed[0][0] == "":
                display.say(f"{outcome.experiment}: {outcome.failed[0][1]}")
    return sum(bool(outcome.failed) for outcome in outcomes)
