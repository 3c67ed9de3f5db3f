"""Factory of assets: from one step of a pipeline to one partitioned asset, and from its cohort step to another.

The body of an asset locks the step, runs it if something changed, and hands the result to the IO manager; that way is
`engine/locked_step.py`. What people see of the result is made in `description.py`.
"""

# Dagster reads the annotations of an asset's body at run time, hence no postponed evaluation in this module.
from collections.abc import Callable, Iterator
from typing import Any

import dagster as dg

from morphseq_dagster.assets.description import describe_hit, describe_result, failure_of, output_tags
from morphseq_dagster.engine.contract.progress import Progress
from morphseq_dagster.engine.contract.step import StepSpec
from morphseq_dagster.engine.executors.protocol import WorkLeft
from morphseq_dagster.engine.layout import COHORT
from morphseq_dagster.engine.locked_step import discard_unpublished, lock_step
from morphseq_dagster.engine.pipeline import Pipeline
from morphseq_dagster.errors import MorphseqError
from morphseq_dagster.partitions import PARTITION_TAG, partitions_of
from morphseq_dagster.resources.workspace import WorkspaceResource
from morphseq_dagster.runs.listeners import announce

IO_MANAGER_KEY = "artifact_io"
FORCE_TAG = "morphseq/force"
_ALL = "all"


def make_assets(pipeline: Pipeline) -> list[dg.AssetsDefinition]:
    """Make the asset of every step, and of the cohort if there is one."""
    cohort = [make_cohort_asset(pipeline, spec=pipeline.cohort)] if pipeline.cohort is not None else []
    return [*(make_asset(pipeline, spec=spec) for spec in pipeline.steps), *cohort]


def make_asset(pipeline: Pipeline, *, spec: StepSpec) -> dg.AssetsDefinition:
    """Make the asset of one step."""

    def body(
        context: dg.AssetExecutionContext, workspace: WorkspaceResource, **upstream: object
    ) -> Iterator[dg.MaterializeResult[Any]]:
        del upstream  # lazy references: Dagster has checked that they exist, the request carries their hashes
        yield from _run_step(spec, context=context, resource=workspace, experiment=context.partition_key)

    return _decorate(
        body,
        pipeline=pipeline,
        spec=spec,
        ins={name: dg.AssetIn(key=name) for name in spec.inputs},
        partitions_def=partitions_of(pipeline),
        pool=spec.pool if spec.pool == "gpu" else None,
    )


def make_cohort_asset(pipeline: Pipeline, *, spec: StepSpec) -> dg.AssetsDefinition:
    """Make the asset that joins all partitions: unpartitioned, launched by its own job and command only.

    A selection of everything with a partition runs unpartitioned assets as well, hence it yields nothing in a run of
    one partition.
    """

    def body(context: dg.AssetExecutionContext, workspace: WorkspaceResource) -> Iterator[dg.MaterializeResult[Any]]:
        if PARTITION_TAG in context.run.tags:
            context.log.info("a run of one experiment leaves the cohort as it is; launch it with `morphseq cohort`")
            return
        yield from _run_step(spec, context=context, resource=workspace, experiment=COHORT)

    deps = [dg.AssetDep(pipeline.final, partition_mapping=dg.AllPartitionMapping())]
    return _decorate(body, pipeline=pipeline, spec=spec, deps=deps, output_required=False)


def _decorate(
    body: Callable[..., Any],
    *,
    pipeline: Pipeline,
    spec: StepSpec,
    **options: Any,  # noqa: ANN401 - of `dagster.asset`, handed on as they are
) -> dg.AssetsDefinition:
    """Make an asset of a body, with its description for the web page."""
    artifact = next(a for a in pipeline.artifacts if a.name == spec.name)
    asset: dg.AssetsDefinition = dg.asset(
        name=spec.name,
        code_version=str(spec.version),
        description=artifact.description,
        group_name=spec.group,
        kinds=set(spec.kinds),
        owners=[f"team:{pipeline.name}"],
        tags={"stage": spec.stage} if spec.stage else {},
        io_manager_key=IO_MANAGER_KEY,
        **options,
    )(body)
    return asset


def _run_step(
    spec: StepSpec, *, context: dg.AssetExecutionContext, resource: WorkspaceResource, experiment: str
) -> Iterator[dg.MaterializeResult[Any]]:
    """Run one step inside its lock, which outlasts the yield: the IO manager commits before the lock is released."""
    workspace, run_id = resource.open(), context.run.run_id

    def report(progress: Progress) -> None:
        announce(progress)
        _log(context, progress)

    try:
        with lock_step(
            spec,
            workspace=workspace,
            experiment=experiment,
            run_id=run_id,
            executor=resource.executor_of(spec.name, experiment=experiment, run_id=run_id),
            force=_is_forced(context, spec.name),
            repeated=resource.may_suspend(run_id) and _has_succeeded(context),
            on_wait=lambda lock: context.log.info(f"waiting for {lock.holder()}"),
        ) as step:
            tags = output_tags(step.request)
            if step.recalled is not None:
                yield describe_result(step.recalled, workspace=workspace, tags=tags)
                return
            if step.cached is not None:
                yield describe_hit(step.cached, workspace=workspace)
                return
            outcome = step.run(progress=report)
            try:
                yield describe_result(outcome, workspace=workspace, tags=tags)
            finally:
                discard_unpublished(workspace.layout, outcome=outcome)
    except WorkLeft as left:
        resource.leave(left, instance=context.instance, run=context.run, step_key=str(context.op_handle))
    except MorphseqError as error:
        raise failure_of(error) from error


def _has_succeeded(context: dg.AssetExecutionContext) -> bool:
    """Whether a process of this run before this one has finished the step."""
    events = context.instance.all_logs(context.run.run_id, of_type=dg.DagsterEventType.STEP_SUCCESS)
    return any(entry.step_key == str(context.op_handle) for entry in events)


def _is_forced(context: dg.AssetExecutionContext, step: str) -> bool:
    """Whether the run's tag names this step (or all) for recomputation."""
    named = context.run.tags.get(FORCE_TAG, "").split(".")
    return step in named or _ALL in named


def _log(context: dg.AssetExecutionContext, progress: Progress) -> None:
    """Log about ten lines per step: the event log is no place for one line per well of hundreds."""
    every = max(1, progress.total // 10)
    if progress.done % every == 0 or progress.done == progress.total:
        context.log.info(f"{progress.step}: {progress.done}/{progress.total} ({progress.label})")
