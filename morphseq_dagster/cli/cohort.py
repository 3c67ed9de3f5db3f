"""`morphseq cohort`: one table of all experiments, which only you launch - never a sensor, nor `morphseq pipeline`."""

from __future__ import annotations

import typer

from morphseq_dagster.cli.options import Call, refusing_call, verb


@verb(example="morphseq cohort")
def cohort(call: Call) -> None:
    """Join the final tables of all experiments into one."""
    from morphseq_dagster.cli.runs import launching

    with launching(call, total=1) as (launcher, display), refusing_call():
        outcome = launcher.run_cohort(display=display)
    raise typer.Exit(1 if outcome.failed else 0)
