"""Factory of assets: from one step of the registry to one partitioned asset.

Holds the asset's body - claim, "nothing changed" test, run, hand over to the IO manager - and its description for the
web interface. Everything else stands in the registry.
"""

# Dagster reads the annotations of an asset's body at run time, hence no postponed evaluation in this module.
from collections.abc import Callable, Iterator
from typing import Any

import dagster as dg

from morphseq_dagster.assets.description import describe_hit, describe_result, failure_of, output_tags
from morphseq_dagster.cluster.executor import SuspendedRun
from morphseq_dagster.cluster.suspend.worker import leave, may_suspend
from morphseq_dagster.engine.contract.progress import Progress, listening
from morphseq_dagster.engine.contract.step import Registry, StepRequest, StepSpec
from morphseq_dagster.engine.locked_step import discard_unpublished, lock_step, run_locked
from morphseq_dagster.errors import MorphseqError
from morphseq_dagster.partitions import EXPERIMENTS
from morphseq_dagster.resources.workspace import WorkspaceResource

IO_MANAGER_KEY = "artifact_io"
FORCE_TAG = "morphseq/force"
OWNERS = ["team:morphseq"]
_ALL = "all"


def make_assets(registry: Registry) -> list[dg.AssetsDefinition]:
    """Make the asset of every step."""
    return [make_asset(spec) for spec in registry.steps]


def make_asset(spec: StepSpec) -> dg.AssetsDefinition:
    """Make the asset of one step."""

    @dg.asset(
        name=spec.name,
        ins={name: dg.AssetIn(key=name) for name in spec.inputs},
        partitions_def=EXPERIMENTS,
        code_version=str(spec.version),
        description=spec.description,
        group_name=spec.group,
        kinds=set(spec.kinds),
        owners=OWNERS,
        tags={"stage": spec.stage} if spec.stage else {},
        pool=spec.pool if spec.pool == "gpu" else None,
        io_manager_key=IO_MANAGER_KEY,
    )
    def body(
        context: dg.AssetExecutionContext, workspace: WorkspaceResource, **upstream: object
    ) -> Iterator[dg.MaterializeResult[Any]]:
        del upstream  # lazy references: Dagster has checked that they exist, the request carries their hashes
        yield from run_step(spec, context=context, resource=workspace, experiment=context.partition_key)

    return body


def run_step(
    spec: StepSpec,
    *,
    context: dg.AssetExecutionContext,
    resource: WorkspaceResource,
    experiment: str,
    make_request: Callable[[], StepRequest] | None = None,
) -> Iterator[dg.MaterializeResult[Any]]:
    """Run one step inside its claim, which outlasts the yield: the IO manager commits before the claim is released."""
    workspace = resource.open()
    run_id, force = context.run.run_id, _is_forced(context, spec.name)
    try:
        with lock_step(
            spec,
            workspace=workspace,
            experiment=experiment,
            run_id=run_id,
            force=force,
            repeated=may_suspend(run_id) and _has_succeeded(context),
            on_wait=lambda claim: context.log.info(f"waiting for {claim.holder()}"),
            make_request=make_request,
        ) as session:
            if session.recalled is not None:
                yield describe_result(session.recalled, workspace=workspace, tags=output_tags(session.request))
                return
            if session.cached is not None:
                yield describe_hit(session.cached, workspace=workspace)
                return
            with listening(lambda progress: _log(context, progress)):
                place = resource.place_of(spec.name, experiment=experiment, run_id=run_id)
                outcome = run_locked(session, spec=spec, place=place)
            try:
                yield describe_result(outcome, workspace=workspace, tags=output_tags(session.request))
            finally:
                discard_unpublished(workspace.layout, outcome=outcome)
    except SuspendedRun as parked:
        leave(parked, instance=context.instance, run=context.run, step_key=str(context.op_handle))
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
