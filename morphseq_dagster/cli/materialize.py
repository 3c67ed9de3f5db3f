"""`morphseq materialize`: the short form of `dagster asset materialize` for experiments; registers, then runs."""

from __future__ import annotations

from typing import Annotated

import typer

from morphseq_dagster.cli.choice import choose_experiments, show_choice
from morphseq_dagster.cli.options import Call, refusing_call, split_names, verb


@verb(example="morphseq materialize --partition 20250529_ctrl --select qc_staged")
def materialize(
    call: Call,
    partition: Annotated[str, typer.Option("--partition", help="Experiments, separated by commas.")],
    *,
    select: Annotated[str, typer.Option("--select", help="Assets in Dagster's language, such as '*qc_staged'.")] = "*",
    force: Annotated[bool, typer.Option("--force", help="Compute the selected steps again.")] = False,
) -> None:
    """Run selected assets of experiments.

    What is up to date stands, unless you give --force.
    """
    from morphseq_dagster.cli.launch import select_steps
    from morphseq_dagster.cli.runs import run_chains

    with refusing_call():
        choice = choose_experiments(call.workspace, names=split_names(partition))
        steps = select_steps(call, select)
    show_choice(choice, verbose=call.verbose)
    failures = len(choice.refused)
    failures += run_chains(call, dict.fromkeys(choice.experiments, steps), bulk=False, steps=steps, force=force)
    raise typer.Exit(1 if failures else 0)
