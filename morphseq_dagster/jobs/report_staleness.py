"""The job `report_staleness`: tells the web page, through the check `up_to_date`, which experiments are stale and why.

Holds the job. One run tells any number of experiments; the sensor of the same name asks for it when there is news.
(An evaluation without a run can be stored once per experiment only: Dagster 1.13 refuses the second.)
"""

# Dagster reads the annotations of an op's body at run time, hence no postponed evaluation in this module.
from collections.abc import Mapping

import dagster as dg
from pydantic import Field

from morphseq_dagster.assets.freshness import evaluate, find_target, plan_known, summarise
from morphseq_dagster.resources.workspace import WorkspaceResource

REPORT_JOB = "report_staleness"


class ReportConfig(dg.Config):
    """Whom to tell about."""

    experiments: list[str] = Field(default=[], description="Experiments to look at; all registered ones when empty.")


@dg.op(name="tell", description="Plans, and reports the check of every experiment.")
def tell(context: dg.OpExecutionContext, config: ReportConfig, workspace: WorkspaceResource) -> None:
    """Report the state of experiments as it is now."""
    report(context, workspace=workspace, experiments=config.experiments or None)


def make_report_job(*, tags: Mapping[str, str]) -> dg.JobDefinition:
    """Make the job; its runs carry the tags."""

    @dg.job(
        name=REPORT_JOB,
        description="Tells this page which experiments are stale and why. Starts nothing.",
        executor_def=dg.in_process_executor,
        tags=dict(tags),
    )
    def report_staleness() -> None:
        tell()

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
