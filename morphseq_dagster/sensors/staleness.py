"""Sensors of staleness: one reports it to the web page, one launches what is stale; the second is off until asked for.

Holds the ticks and their pure parts. Plans are `lineage`; what a run then finds unchanged costs it a look.
"""

# Dagster reads the annotations of a sensor's body at run time, hence no postponed evaluation in this module.
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

import dagster as dg
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from morphseq_dagster.assets.freshness import evaluate, summarise
from morphseq_dagster.discovery import discover
from morphseq_dagster.lineage.plan import plan_experiments
from morphseq_dagster.lineage.planner import ExperimentPlan, encode_plan
from morphseq_dagster.lineage.retirement import read_retired
from morphseq_dagster.lineage.scans import Scans
from morphseq_dagster.partitions import EXPERIMENTS, find_busy
from morphseq_dagster.resources.workspace import WorkspaceResource
from morphseq_dagster.steps.workspace import Workspace
from morphseq_dagster.storage.hashing import hash_json

REPORT: Final = "report_staleness"
LAUNCH: Final = "stale_experiments"
REPORT_S: Final = 120
LAUNCH_S: Final = 60
STALE_TAG: Final = "morphseq/stale"
FRESH_S: Final = 30.0
"""Age in seconds up to which both sensors share a listing of a raw folder."""
_DIGEST: Final = 16


class Told(BaseModel):
    """What the report sensor remembers: digest of what it last told of every experiment."""

    model_config = ConfigDict(frozen=True)

    version: int = 1
    digests: dict[str, str] = Field(default_factory=dict)


@dataclass(frozen=True)
class News:
    """Plans that differ from what was told, and what has been told after this."""

    plans: tuple[ExperimentPlan, ...]
    digests: Mapping[str, str]


def find_news(plans: Iterable[ExperimentPlan], *, told: Mapping[str, str]) -> News:
    """Pick the experiments whose plan reads otherwise than last time; those at work are told when they are done."""
    news, digests = [], {}
    for plan in plans:
        before = told.get(plan.experiment, "")
        if plan.busy:
            digests[plan.experiment] = before
            continue
        digest = hash_json([encode_plan(plan)["steps"], plan.problem])[:_DIGEST]
        digests[plan.experiment] = digest
        if digest != before:
            news.append(plan)
    return News(tuple(news), digests)


def ask_for_runs(plans: Iterable[ExperimentPlan]) -> list[dg.RunRequest]:
    """One run per experiment over what automation may launch; a launch that was made once is not made again."""
    return [
        dg.RunRequest(
            run_key=plan.run_key,
            partition_key=plan.experiment,
            asset_selection=[dg.AssetKey(step) for step in plan.automatic],
            tags={STALE_TAG: plan.automatic[0]},
        )
        for plan in plans
        if plan.automatic and not plan.busy and not plan.problem
    ]


def make_report_sensor() -> dg.SensorDefinition:
    """Make the sensor that keeps the check `up_to_date` of every experiment true; it starts nothing."""

    @dg.sensor(
        name=REPORT,
        minimum_interval_seconds=REPORT_S,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Tells the web page which experiments are stale and why, files changed or lost included, through "
        "the check `up_to_date` of the final table. Starts nothing.",
    )
    def report_staleness(context: dg.SensorEvaluationContext, workspace: WorkspaceResource) -> dg.SensorResult:
        told = _read(context.cursor)
        plans = plan_known(workspace.open(), instance=context.instance)
        news = find_news(plans, told=told.digests)
        for plan in news.plans:
            context.log.info(f"{plan.experiment}: {summarise(plan)}")
        return dg.SensorResult(
            asset_events=[evaluate(plan) for plan in news.plans],
            cursor=Told(digests=dict(news.digests)).model_dump_json(),
            skip_reason=dg.SkipReason(f"{len(plans)} experiments looked at, {len(news.plans)} told anew"),
        )

    return report_staleness


def make_launch_sensor(job: str) -> dg.SensorDefinition:
    """Make the sensor that launches what is stale; its tick preview shows the plan."""

    @dg.sensor(
        name=LAUNCH,
        job_name=job,
        minimum_interval_seconds=LAUNCH_S,
        default_status=dg.DefaultSensorStatus.STOPPED,
        description="Launches one run per experiment over its stale steps. Preview a tick to see the plan. A step that "
        "failed is not launched again for the same reasons.",
    )
    def stale_experiments(context: dg.SensorEvaluationContext, workspace: WorkspaceResource) -> dg.SensorResult:
        plans = plan_known(workspace.open(), instance=context.instance, launching=True)
        for plan in plans:
            if plan.pending or plan.held or plan.problem:
                context.log.info(f"{plan.experiment}: {summarise(plan)}")
        requests = ask_for_runs(plans)
        reason = None if requests else dg.SkipReason(f"{len(plans)} experiments looked at, nothing to launch")
        return dg.SensorResult(run_requests=requests, skip_reason=reason)

    return stale_experiments


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
        Data root and registry.
    instance
        Knows partitions and runs.
    experiments
        Only these; all registered ones when None.
    launching
        Whether runs will be asked for: experiments whose files still arrive then count as busy.
    """
    busy = find_busy(instance)
    if launching:
        found = discover(workspace.layout)
        busy |= {entry.name: f"{entry.state}: {entry.reason}" for entry in found if entry.state != "ready"}
    registered = set(instance.get_dynamic_partitions(str(EXPERIMENTS.name)))
    chosen = registered if experiments is None else registered & set(experiments)
    names = sorted(chosen - read_retired(workspace.layout))
    scans = Scans(workspace.layout, fresh_s=FRESH_S)
    plans = list(plan_experiments(workspace, experiments=names, busy=busy, scans=scans))
    scans.save()
    return plans


def _read(text: str | None) -> Told:
    """Read the cursor; one that is not understood starts afresh, which repeats what was told."""
    if not text:
        return Told()
    try:
        told = Told.model_validate_json(text)
    except ValidationError:
        return Told()
    return told if told.version == Told().version else Told()
