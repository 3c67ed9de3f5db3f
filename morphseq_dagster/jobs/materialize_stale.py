"""The job `materialize_stale`: one click that mends what is stale, one run per experiment, with the plan in its log.

Holds the job. Each experiment is a run of its own in the same process, so that one failure stops no other and every
run can be looked at, cancelled and repeated by itself.
"""

# Dagster reads the annotations of an op's body at run time, hence no postponed evaluation in this module.
from collections.abc import Callable

import dagster as dg
from pydantic import Field

from morphseq_dagster.assets.freshness import STALE_JOB, plan_known, summarise
from morphseq_dagster.jobs.report_staleness import report
from morphseq_dagster.lineage.planner import ExperimentPlan
from morphseq_dagster.resources.workspace import WorkspaceResource
from morphseq_dagster.sensors.staleness import STALE_TAG


class StaleConfig(dg.Config):
    """What to mend."""

    experiments: list[str] = Field(default=[], description="Experiments to mend; all registered ones when empty.")
    dry_run: bool = Field(default=False, description="Show the plan in the log and launch nothing.")


def make_stale_job(*, pipeline: str, definitions: Callable[[], dg.Definitions]) -> dg.JobDefinition:
    """Make the job.

    Parameters
    ----------
    pipeline
        Job of one experiment.
    definitions
        Gives the definitions that hold it.
    """

    @dg.op(name="mend", description="Plans, then runs what is stale.")
    def mend(context: dg.OpExecutionContext, config: StaleConfig, workspace: WorkspaceResource) -> None:
        opened = workspace.open()
        named = config.experiments or None
        # Named experiments do not wait for the end of their acquisition, as on the command line.
        plans = plan_known(opened, instance=context.instance, experiments=named, launching=named is None)
        unknown = sorted(set(named or ()) - {plan.experiment for plan in plans})
        if unknown:
            raise dg.Failure(f"not registered, or retired: {', '.join(unknown)}", allow_retries=False)
        for plan in plans:
            _tell(context, plan)
        if config.dry_run:
            return
        failed = []
        job = definitions().resolve_job_def(pipeline)
        for plan in plans:
            if not plan.automatic or plan.busy:
                continue
            result = job.execute_in_process(
                instance=context.instance,
                partition_key=plan.experiment,
                asset_selection=[dg.AssetKey(step) for step in plan.automatic],
                tags={STALE_TAG: plan.automatic[0]},
                raise_on_error=False,
            )
            context.log.info(f"{plan.experiment}: {'mended' if result.success else 'failed'}, run {result.run_id}")
            if not result.success:
                failed.append(plan.experiment)
        report(context, workspace=workspace, experiments=named)
        if failed:
            raise dg.Failure(f"failed: {', '.join(failed)}; their runs say why", allow_retries=False)

    @dg.job(
        name=STALE_JOB,
        description="Mends what is stale, one run per experiment. Steps held for a person are named and left alone.",
        executor_def=dg.in_process_executor,
    )
    def materialize_stale() -> None:
        mend()

    return materialize_stale


def _tell(context: dg.OpExecutionContext, plan: ExperimentPlan) -> None:
    context.log.info(f"{plan.experiment}: {summarise(plan)}")
    for verdict in plan.verdicts:
        if verdict.runs or verdict.held:
            context.log.info(f"{plan.experiment} {verdict.step}: {verdict.reason}")
