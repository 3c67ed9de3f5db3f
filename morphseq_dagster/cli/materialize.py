"""`morphseq materialize`: the short form of `dagster asset materialize` for experiments; registers, then runs."""

from __future__ import annotations

from typing import Annotated

import typer

from morphseq_dagster.cli.choice import choose_experiments
from morphseq_dagster.cli.messages import printable
from morphseq_dagster.cli.options import (
    DEFAULT_PIPELINE,
    DataRoot,
    PipelineName,
    Verbose,
    open_call,
    refusing_call,
    split_names,
)


def materialize(
    partition: Annotated[str, typer.Option("--partition", help="Experiments, separated by commas.")],
    *,
    select: Annotated[str, typer.Option("--select", help="Assets in Dagster's language, such as '*qc_staged'.")] = "*",
    force: Annotated[bool, typer.Option("--force", help="Compute the selected steps again.")] = False,
    data_root: DataRoot = None,
    verbose: Verbose = False,
    pipeline: PipelineName = DEFAULT_PIPELINE,
) -> None:
    """Materialize selected assets of experiments; what is done already stands."""
    call = open_call(data_root, pipeline=pipeline)
    from morphseq_dagster.cli.display import Display
    from morphseq_dagster.cli.launch import Launcher, open_instance

    with open_instance() as (instance, _):
        launcher = Launcher(call, instance=instance, verbose=verbose)
        with refusing_call():
            choice = choose_experiments(call.workspace, names=split_names(partition))
            steps = launcher.select(select)
        failures = len(choice.refused)
        with Display(total=len(steps) * len(choice.experiments)) as display:
            for name, reason in choice.refused:
                display.say(f"{name}: refused, {printable(reason)}")
            for experiment in choice.experiments:
                display.begin(experiment)
                outcome = launcher.run(
                    experiment,
                    steps=steps,
                    forced=steps if force else (),
                    on_event=display.note,
                    on_progress=display.progress,
                )
                display.finish(outcome)
                failures += bool(outcome.failed)
    raise typer.Exit(1 if failures else 0)
