"""The job `materialize_stale`: one click that refreshes what is stale, with the plan in its log.

Each experiment is a run of its own in the same process, so that one failure stops no other and every run can be looked
at, cancelled and repeated by itself. Where many wait for a cluster, one run of the job `bulk` takes them all.
"""

# Dagster reads the annotations of an op's body at run time, hence no postponed evaluation in this module.
from collections.abc import Mapping, Sequence

import dagster as dg
from pydantic import Field

from morphseq_dagster.assets.freshness import STALE_JOB, plan_known, summarise
from morphseq_dagster.engine.planner.step_plans import ExperimentPlan
from morphseq_dagster.errors import name_some
from morphseq_dagster.jobs.report_staleness import report
from morphseq_dagster.partitions import BULK_JOB, bulk_config
from morphseq_dagster.resources.workspace import WorkspaceResource
from morphseq_dagster.runs.interruption import execute
from morphseq_dagster.runs.run_mode import describe_way, wants_bulk
from morphseq_dagster.sensors.staleness import STALE_TAG


class StaleConfig(dg.Config):
    """What to refresh."""

    experiments: list[str] = Field(default=[], description="Experiments to refresh; all registered ones when empty.")
    dry_run: bool = Field(default=False, description="Show the plan in the log and launch nothing.")


def make_stale_job(
    core: dg.Definitions, *, job: str, bulk: dg.JobDefinition, tags: Mapping[str, str]
) -> dg.JobDefinition:
    """Make the job.

    Parameters
    ----------
    core
        Definitions of assets, resources and the job of one experiment.
    job
        Name of that job.
    bulk
        Job of one run over many.
    tags
        Of its runs.
    """

    @dg.op(name="mend", description="Plans, then runs what is stale.")
    def mend(context: dg.OpExecutionContext, config: StaleConfig, workspace: WorkspaceResource) -> None:
        opened = workspace.open()
        named = config.experiments or None
        # Named experiments do not wait for the end of their acquisition, as on the command line.
        plans = plan_known(opened, instance=context.instance, experiments=named, launching=named is None)
        unknown = sorted(set(named or ()) - {plan.experiment for plan in plans})
        if unknown:
            raise dg.Failure(f"not registered, or retired: {name_some(unknown)}", allow_retries=False)
        for plan in plans:
            _log(context, plan)
        chains = {plan.experiment: plan.automatic for plan in plans if plan.automatic and not plan.busy}
        together = wants_bulk(chains, place_of=workspace.place_names(), chained=workspace.chained)
        if chains:
            context.log.info(f"{len(chains)} experiments to refresh, {describe_way(bulk=together)}")
        if config.dry_run:
            return
        if together:
            failed = _run_together(
                context,
                tuple(chains),
                job=dg.Definitions.merge(core, dg.Definitions(jobs=[bulk])).resolve_job_def(BULK_JOB),
            )
        else:
            failed = _run_each(context, chains, job=core.resolve_job_def(job))
        report(context, workspace=workspace, experiments=named)
        if failed:
            raise dg.Failure(failed, allow_retries=False)

    @dg.job(
        name=STALE_JOB,
        description="Refreshes what is stale, one run per experiment; many that wait for a cluster go as one run. "
        "Steps that are left to you are named and stay as they are.",
        executor_def=dg.in_process_executor,
        tags=dict(tags),
    )
    def materialize_stale() -> None:
        mend()

    return materialize_stale


def _log(context: dg.OpExecutionContext, plan: ExperimentPlan) -> None:
    context.log.info(f"{plan.experiment}: {summarise(plan)}")
    for verdict in plan.verdicts:
        if verdict.runs or verdict.held:
            context.log.info(f"{plan.experiment} {verdict.step}: {verdict.reason}")


def _run_each(context: dg.OpExecutionContext, chains: Mapping[str, Sequence[str]], *, job: dg.JobDefinition) -> str:
    """Run one experiment after the other; return which failed, nothing when none did."""
    failed = []
    for experiment, steps in chains.items():
        result = execute(
            job,
            instance=context.instance,
            partition_key=experiment,
            asset_selection=[dg.AssetKey(step) for step in steps],
            tags={STALE_TAG: steps[0]},
        )
        context.log.info(f"{experiment}: {'mended' if result.success else 'failed'}, run {result.run_id}")
        if not result.success:
            failed.append(experiment)
    return f"failed: {name_some(failed)}; their runs have the reasons" if failed else ""


def _run_together(context: dg.OpExecutionContext, experiments: Sequence[str], *, job: dg.JobDefinition) -> str:
    """Run all as one; return what failed, nothing when all went well."""
    result = execute(
        job,
        instance=context.instance,
        run_config=bulk_config(experiments, automatic=True),
        tags={STALE_TAG: f"{len(experiments)} experiments"},
    )
    context.log.info(f"{len(experiments)} experiments: {'mended' if result.success else 'failed'}, run {result.run_id}")
    if result.success:
        return ""
    failures = [event.step_failure_data.user_failure_data for event in result.all_events if event.is_step_failure]
    reasons = "; ".join(data.description or "" for data in failures if data is not None)
    return f"{reasons or 'failed'}; run {result.run_id} has the reasons"
