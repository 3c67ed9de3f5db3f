"""Freshness on the web page: the check `up_to_date` of every experiment's final table, with the reasons.

Dagster's own marks do not see partitions, so the plan is shown as a partitioned check: its page lists every experiment
as passed or failed. The plan itself is made in `engine/planner`.
"""

# Dagster reads the annotations of a check's body at run time, hence no postponed evaluation in this module.
import warnings
from collections.abc import Iterable, Mapping
from typing import Any, Final

import dagster as dg

# Has no public name in Dagster 1.13; partitioned checks are a preview there.
from dagster._core.definitions.asset_checks.asset_check_evaluation import (
    AssetCheckEvaluationTargetMaterializationData,
)

from morphseq_dagster.assets.provenance import find_newest
from morphseq_dagster.engine.pipeline import Pipeline
from morphseq_dagster.engine.planner.plan import plan_experiments
from morphseq_dagster.engine.planner.retirement import read_retired
from morphseq_dagster.engine.planner.run_times import describe_cost, estimate_cost
from morphseq_dagster.engine.planner.scans import Scans
from morphseq_dagster.engine.planner.step_plans import ExperimentPlan
from morphseq_dagster.engine.workspace import Workspace
from morphseq_dagster.errors import name_some
from morphseq_dagster.partitions import find_busy, find_registered, partitions_of
from morphseq_dagster.resources.workspace import WorkspaceResource

CHECK: Final = "up_to_date"
STALE_JOB: Final = "materialize_stale"
FRESH_S: Final = 30.0
"""Age in seconds up to which sensors and jobs share a listing of a raw folder."""
_JOB_PAGE: Final = f"/locations/morphseq_dagster/jobs/{STALE_JOB}/playground"


def make_freshness_check(pipeline: Pipeline) -> dg.AssetChecksDefinition:
    """Make the check; it runs with the final table and whenever a person asks."""

    def up_to_date(context: dg.AssetCheckExecutionContext, workspace: WorkspaceResource) -> dg.AssetCheckResult:
        (plan,) = plan_experiments(workspace.open(), experiments=[context.partition_key])
        return dg.AssetCheckResult(
            passed=is_settled(plan),
            severity=dg.AssetCheckSeverity.WARN,
            description=summarise(plan),
            metadata=describe_plan(plan),
        )

    with warnings.catch_warnings():
        # Partitioned checks are a preview in Dagster 1.13, which we use knowingly.
        warnings.filterwarnings("ignore", "Specifying a partitions_def on an AssetCheckSpec", dg.PreviewWarning)
        return dg.asset_check(
            asset=pipeline.final,
            name=CHECK,
            partitions_def=partitions_of(pipeline),
            description="Whether every step of the experiment answers its inputs, recipe and code, and if not, why.",
        )(up_to_date)


def find_target(
    instance: dg.DagsterInstance, *, pipeline: Pipeline, experiment: str
) -> AssetCheckEvaluationTargetMaterializationData | None:
    """Find the latest event of an experiment's final table; an evaluation of an older one is not shown."""
    latest = find_newest(instance, name=pipeline.final, experiment=experiment)
    if latest is None:
        return None
    return AssetCheckEvaluationTargetMaterializationData(
        storage_id=latest.storage_id, run_id=latest.run_id, timestamp=latest.timestamp
    )


def evaluate(
    plan: ExperimentPlan, *, pipeline: Pipeline, target: AssetCheckEvaluationTargetMaterializationData | None
) -> dg.AssetCheckEvaluation:
    """Turn a plan into an evaluation of the check, to be logged in a run of any job."""
    return dg.AssetCheckEvaluation(
        asset_key=dg.AssetKey(pipeline.final),
        check_name=CHECK,
        passed=is_settled(plan),
        severity=dg.AssetCheckSeverity.WARN,
        description=summarise(plan),
        metadata=describe_plan(plan),
        partition=plan.experiment,
        target_materialization_data=target,
    )


def is_settled(plan: ExperimentPlan) -> bool:
    """Whether nothing of an experiment is stale or unknown."""
    return not plan.problem and not plan.pending and not plan.held


def summarise(plan: ExperimentPlan) -> str:
    """Say the plan in one line."""
    if plan.problem:
        return plan.problem
    if is_settled(plan):
        return "up to date"
    words = f"{len(plan.pending)} steps stale: {name_some(plan.closure, most=4)}" if plan.pending else "held"
    return words + (f" (at work: {plan.busy})" if plan.busy else "")


def describe_plan(plan: ExperimentPlan) -> Mapping[str, Any]:
    """Reasons per step, what is left to you, the cost, and where to mend it."""
    lines = [
        f"- **{verdict.step}**: {verdict.reason}" + (f" (left to you: {verdict.held})" if verdict.held else "")
        for verdict in plan.verdicts
        if verdict.runs or verdict.held
    ]
    if not lines:
        return {"stale steps": 0}
    return {
        "stale steps": len(plan.pending),
        "why": dg.MetadataValue.md("\n".join(lines)),
        "cost": describe_cost(estimate_cost(plan.pending)),
        "mend": dg.MetadataValue.url(_JOB_PAGE),
    }


def plan_known(
    workspace: Workspace,
    *,
    instance: dg.DagsterInstance,
    experiments: Iterable[str] | None = None,
    launching: bool = False,
) -> list[ExperimentPlan]:
    """Plan the registered experiments; who is at work is asked first.

    Parameters
    ----------
    workspace
        Data root and pipeline.
    instance
        Knows partitions and runs.
    experiments
        Only these; all registered ones when None.
    launching
        Whether runs will be asked for: experiments whose files still arrive then count as busy.
    """
    pipeline = workspace.pipeline
    busy = find_busy(instance, pipeline=pipeline)
    if launching and pipeline.sources is not None:
        found = pipeline.sources.discover(workspace.layout)
        busy |= {entry.name: f"{entry.state}: {entry.reason}" for entry in found if entry.state != "ready"}
    registered = find_registered(instance, pipeline=pipeline)
    chosen = registered if experiments is None else registered & set(experiments)
    names = sorted(chosen - read_retired(workspace))
    scans = Scans(workspace.layout, fresh_s=FRESH_S)
    plans = list(plan_experiments(workspace, experiments=names, busy=busy, scans=scans))
    scans.save()
    return plans
