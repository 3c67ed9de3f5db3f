"""The job `report_staleness`: shows on the web page, by the check `up_to_date`, which experiments are stale and why.

One run reports any number of experiments; the sensor of the same name asks for one when something has changed. (An
evaluation without a run can be stored once per experiment only: Dagster 1.13 refuses the second.)
"""

# Dagster reads the annotations of an op's body at run time, hence no postponed evaluation in this module.
from collections.abc import Mapping

import dagster as dg
from pydantic import Field

from morphseq_dagster.assets.freshness import evaluate, find_target, plan_known, summarise
from morphseq_dagster.partitions import REPORT_OP
from morphseq_dagster.resources.workspace import WorkspaceResource

REPORT_JOB = "report_staleness"


class ReportConfig(dg.Config):
    """What to report."""

    experiments: list[str] = Field(default=[], description="Experiments to look at; all registered ones when empty.")


@dg.op(name=REPORT_OP, description="Plans, and reports the check of every experiment.")
def report_checks(context: dg.OpExecutionContext, config: ReportConfig, workspace: WorkspaceResource) -> None:
    """Report the state of experiments as it is now."""
    report(context, workspace=workspace, experiments=config.experiments or None)


def make_report_job(*, tags: Mapping[str, str]) -> dg.JobDefinition:
    """Make the job; its runs carry the tags."""

    @dg.job(
        name=REPORT_JOB,
        description="Shows on this page which experiments are stale and why. Starts nothing.",
        executor_def=dg.in_process_executor,
        tags=dict(tags),
    )
    def report_staleness() -> None:
        report_checks()

    return report_staleness


def report(context: dg.OpExecutionContext, *, workspace: WorkspaceResource, experiments: list[str] | None) -> None:
    """Log the evaluation of every experiment that nobody works on."""
    opened = workspace.open()
    for plan in plan_known(opened, instance=context.instance, experiments=experiments):
        if plan.busy:
            continue
        target = find_target(context.instance, pipeline=opened.pipeline, experiment=plan.experiment)
        # The event is accepted and stored; its type stands in no annotation of Dagster 1.13.
        context.log_event(evaluate(plan, pipeline=opened.pipeline, target=target))  # type: ignore[arg-type]
        context.log.info(f"{plan.experiment}: {summarise(plan)}")
