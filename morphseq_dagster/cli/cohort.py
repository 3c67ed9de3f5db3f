"""`morphseq cohort`: one table of all experiments; launched by hand only, never by sensors or `pipeline`."""

from __future__ import annotations

from typing import Final

import typer

from morphseq_dagster.cli.options import DEFAULT_PIPELINE, DataRoot, PipelineName, Verbose, open_call, refusing_call

COHORT_JOB: Final = "cohort"


def cohort(data_root: DataRoot = None, verbose: Verbose = False, pipeline: PipelineName = DEFAULT_PIPELINE) -> None:
    """Join the final tables of all experiments into one."""
    call = open_call(data_root, pipeline=pipeline)
    from morphseq_dagster.cli.display import Display
    from morphseq_dagster.cli.launch import Launcher, open_instance

    with open_instance() as (instance, _), Display(total=1) as display:
        display.begin("cohort")
        launcher = Launcher(call, instance=instance, verbose=verbose)
        with refusing_call():
            outcome = launcher.run_job(COHORT_JOB, on_event=display.note, on_progress=display.progress)
        display.finish(outcome)
    raise typer.Exit(1 if outcome.failed else 0)
