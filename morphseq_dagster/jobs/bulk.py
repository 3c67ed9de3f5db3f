"""The job `bulk`: one run over many experiments, each of which goes through its own chain of steps.

The job chooses the experiments, reports each finished partition to Dagster and names the failures at the end. How the
experiments advance is `cluster/bulk_run.py`.
"""

# Dagster reads the annotations of an op's body at run time, hence no postponed evaluation in this module.
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import dagster as dg
from pydantic import Field

from morphseq_dagster.assets.description import describe_hit, describe_result, output_tags
from morphseq_dagster.assets.provenance import find_newest, find_pointer, has_same_versions, tags_of, version_tags
from morphseq_dagster.assets.reporting import report_records
from morphseq_dagster.engine.planner.plan import plan_experiments
from morphseq_dagster.engine.planner.retirement import read_retired
from morphseq_dagster.engine.planner.scans import Scans
from morphseq_dagster.engine.workspace import Workspace
from morphseq_dagster.errors import name_some
from morphseq_dagster.partitions import BULK_JOB, BULK_OP, find_registered
from morphseq_dagster.resources.workspace import WorkspaceResource
from morphseq_dagster.runs.listeners import announce

if TYPE_CHECKING:
    from morphseq_dagster.cluster.experiment_progress import StepMade, StepUpToDate

_NAMED_IN_TITLE = 20


class BulkConfig(dg.Config):
    """What to work on."""

    experiments: list[str] = Field(description="Experiments, as registered; at least one.")
    steps: list[str] = Field(
        default=[], description="Steps to bring up to date, with everything stale before them; all when empty."
    )
    force: bool = Field(default=False, description="Compute the named steps although nothing changed.")
    automatic: bool = Field(
        default=False, description="Leave alone what automation leaves to a person: edited by hand, failed too often."
    )


def make_bulk_job(core: dg.Definitions, *, tags: Mapping[str, str]) -> dg.JobDefinition:
    """Make the job.

    Parameters
    ----------
    core
        Definitions of the assets, by whose graph records become events that Dagster does not know yet.
    tags
        Of its runs.
    """

    @dg.op(name=BULK_OP, description="Plans, then takes every experiment through what is stale.")
    def walk(context: dg.OpExecutionContext, config: BulkConfig, workspace: WorkspaceResource) -> None:
        # Only a run over many comes here, and it is meant for a cluster.
        from morphseq_dagster.cluster.bulk_run import BulkRun
        from morphseq_dagster.cluster.executor import termination_raises
        from morphseq_dagster.cluster.experiment_progress import StepFailed

        opened = workspace.open()
        names = _check(config, instance=context.instance, workspace=opened)
        chosen = set(config.steps) or {spec.name for spec in opened.pipeline.steps}
        forced = chosen if config.force else set()
        failed: dict[str, str] = {}
        chains: dict[str, tuple[str, ...]] = {}
        plans = plan_experiments(
            opened,
            experiments=names,
            steps=opened.pipeline.ancestors(chosen),
            forced=forced,
            scans=Scans(opened.layout),
        )
        for plan in plans:
            if plan.problem:
                failed[plan.experiment] = plan.problem
                context.log.error(f"{plan.experiment}: {plan.problem}")
            elif chain := plan.automatic if config.automatic else plan.closure:
                chains[plan.experiment] = chain
        context.log.info(
            f"{len(chains)} of {len(names)} experiments have {sum(map(len, chains.values()))} steps to run, "
            f"{len(names) - len(chains) - len(failed)} are up to date"
        )
        report_records(context.instance, graph=core.resolve_asset_graph(), workspace=opened, experiments=names)
        bulk_run = BulkRun(
            opened,
            chains=chains,
            executor_of=lambda step, experiment: workspace.executor_of(step, experiment=experiment),
            run_id=context.run_id,
            forced=forced,
        )
        with termination_raises(), bulk_run:
            for item in bulk_run.events():
                announce(item)
                if isinstance(item, StepFailed):
                    failed[item.experiment] = f"{item.step}: {item.error}"
                    context.log.error(f"{item.experiment} {failed[item.experiment]}")
                else:
                    _report(context, item, workspace=opened)
        if failed:
            raise _failure(failed, total=len(names))

    @dg.job(
        name=BULK_JOB,
        description="One run over many experiments: each walks its own chain of steps; on a cluster all wait in one "
        "process. What failed is named at the end, the others are done.",
        executor_def=dg.in_process_executor,
        # Given here, Dagster need not copy the sensors that launch this job, at which it warns of a beta parameter.
        resource_defs=dict(core.resources or {}),
        tags=dict(tags),
    )
    def bulk() -> None:
        walk()

    return bulk


def _check(config: BulkConfig, *, instance: dg.DagsterInstance, workspace: Workspace) -> tuple[str, ...]:
    """Check the configuration as a whole before anything starts; the experiments without doubles."""
    names = tuple(dict.fromkeys(config.experiments))
    known = find_registered(instance, pipeline=workspace.pipeline) - read_retired(workspace)
    steps = {spec.name for spec in workspace.pipeline.steps}
    problems = [] if names else ["no experiment is named"]
    if unknown := [name for name in names if name not in known]:
        problems.append(f"not registered, or retired: {name_some(unknown, most=_NAMED_IN_TITLE)}")
    if unknown := [name for name in config.steps if name not in steps]:
        problems.append(f"no such steps: {', '.join(unknown)}")
    if problems:
        raise dg.Failure("; ".join(problems), allow_retries=False)
    return names


def _report(context: dg.OpExecutionContext, item: "StepMade | StepUpToDate", *, workspace: Workspace) -> None:
    """Log the materialisation of one partition, unless it stands and Dagster knows it in this version."""
    instance, record = context.instance, item.record
    read = {entry.name: entry.sha256 for entry in record.inputs}
    pointers = {
        name: find_pointer(instance, name=name, experiment=item.experiment, version=read.get(name))
        for name in workspace.pipeline.spec(item.step).inputs
    }
    tags = version_tags(record, pointers=pointers)
    if item.outcome is None or item.recalled:
        newest = find_newest(instance, name=item.step, experiment=item.experiment)
        if has_same_versions(tags_of(newest), tags):
            return
    described: dg.MaterializeResult[Any] = (
        describe_hit(record, workspace=workspace)
        if item.outcome is None
        else describe_result(item.outcome, workspace=workspace, tags=output_tags(item.outcome.request))
    )
    context.log_event(
        dg.AssetMaterialization(
            asset_key=item.step,
            partition=item.experiment,
            metadata=described.metadata,
            tags={**(described.tags or {}), **tags},
        )
    )


def _failure(failed: dict[str, str], *, total: int) -> dg.Failure:
    names = name_some(list(failed), most=_NAMED_IN_TITLE)
    return dg.Failure(
        f"{len(failed)} of {total} experiments failed: {names}; the others are done",
        metadata={name: dg.MetadataValue.text(text) for name, text in failed.items()},
        allow_retries=False,
    )
