"""The typer application: which verbs there are.

Holds the list only; each verb stands in its own module and imports what it needs when it runs.
"""

from __future__ import annotations

import typer

from morphseq_dagster.cli.adopt import adopt
from morphseq_dagster.cli.cohort import cohort
from morphseq_dagster.cli.demo import demo
from morphseq_dagster.cli.doctor import doctor
from morphseq_dagster.cli.experiments import experiments
from morphseq_dagster.cli.explain import explain
from morphseq_dagster.cli.jobs import jobs
from morphseq_dagster.cli.materialize import materialize
from morphseq_dagster.cli.pipeline import pipeline
from morphseq_dagster.cli.recipe import recipe
from morphseq_dagster.cli.reconcile import reconcile
from morphseq_dagster.cli.retire import retire
from morphseq_dagster.cli.stale import stale
from morphseq_dagster.cli.status import status

app = typer.Typer(
    name="morphseq",
    help="From raw microscope files of zebrafish embryos to one table of morphology latents per experiment.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for _verb in (
    demo,
    experiments,
    status,
    explain,
    stale,
    pipeline,
    materialize,
    cohort,
    reconcile,
    adopt,
    retire,
    jobs,
    doctor,
):
    app.command()(_verb)
app.add_typer(recipe, name="recipe")
