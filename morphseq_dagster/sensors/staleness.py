"""Sensors of staleness: one reports it to the web page, one launches what is stale, and is off until you want it.

Plans are made in `engine/planner`. What a run then finds unchanged costs it a look.
"""

# Dagster reads the annotations of a sensor's body at run time, hence no postponed evaluation in this module.
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

import dagster as dg

# What `define_asset_job` gives; it has no public name in Dagster 1.13.
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition
from pydantic import Field

from morphseq_dagster.assets.freshness import find_target, plan_known, summarise
from morphseq_dagster.engine.planner.step_plans import ExperimentPlan, encode_plan
from morphseq_dagster.engine.storage.hashing import hash_json
from morphseq_dagster.partitions import BULK_JOB, REPORT_OP, bulk_config
from morphseq_dagster.resources.workspace import WorkspaceResource
from morphseq_dagster.runs.run_mode import describe_way, wants_bulk
from morphseq_dagster.sensors.memory import Memory, read_cursor

REPORT: Final = "report_staleness"
LAUNCH: Final = "stale_experiments"
REPORT_S: Final = 120
"""Seconds between two reports unless the machine's settings say otherwise."""
LAUNCH_S: Final = 60
STALE_TAG: Final = "morphseq/stale"
_DIGEST: Final = 16


class Reported(Memory):
    """What the report sensor remembers: digest of what it last reported of every experiment."""

    digests: dict[str, str] = Field(default_factory=dict)


class Asked(Memory):
    """What the launch sensor remembers: key of the launch that it asked for last, per experiment."""

    keys: dict[str, str] = Field(default_factory=dict)


@dataclass(frozen=True)
class Asking:
    """Runs to ask for, the keys that have been asked for after this, and the way in words (empty for no runs)."""

    requests: tuple[dg.RunRequest, ...]
    keys: Mapping[str, str]
    way: str


@dataclass(frozen=True)
class News:
    """Plans that differ from what was reported, and what has been reported after this."""

    plans: tuple[ExperimentPlan, ...]
    digests: Mapping[str, str]


def find_news(plans: Iterable[ExperimentPlan], *, reported: Mapping[str, str], targets: Mapping[str, int]) -> News:
    """Pick the experiments whose plan differs from the one reported last.

    Parameters
    ----------
    plans
        Plans of all experiments; those at work are reported when they are done.
    reported
        Digest of what was reported, per experiment.
    targets
        Latest event of each experiment's final table: an evaluation of an earlier one is no longer shown.
    """
    news, digests = [], {}
    for plan in plans:
        before = reported.get(plan.experiment, "")
        if plan.busy:
            digests[plan.experiment] = before
            continue
        content = [encode_plan(plan)["steps"], plan.problem, targets.get(plan.experiment)]
        digest = hash_json(content)[:_DIGEST]
        digests[plan.experiment] = digest
        if digest != before:
            news.append(plan)
    return News(tuple(news), digests)


def ask_for_runs(
    plans: Iterable[ExperimentPlan],
    *,
    asked: Mapping[str, str],
    place_of: Callable[[str, str], str],
    job: str,
    chained: bool = False,
) -> Asking:
    """Ask for what automation may launch: one run per experiment, or one over all where many wait for a cluster.

    Parameters
    ----------
    plans
        Plans of all experiments.
    asked
        Key of the launch that was asked for last, per experiment: what was asked for once, in whichever way, is not
        asked for again.
    place_of
        Name of the place of a step of an experiment.
    job
        Job of one experiment.
    chained
        Whether jobs of the cluster go on with the steps that follow.
    """
    plans = tuple(plans)
    todo = [
        plan
        for plan in plans
        if plan.automatic and not plan.busy and not plan.problem and asked.get(plan.experiment) != plan.run_key
    ]
    known = {plan.experiment for plan in plans}
    keys = {name: key for name, key in asked.items() if name in known}
    keys |= {plan.experiment: plan.run_key for plan in todo}
    chains = {plan.experiment: plan.automatic for plan in todo}
    if wants_bulk(chains, place_of=place_of, chained=chained):
        key = hash_json(sorted(plan.run_key for plan in todo))[:_DIGEST]
        request = dg.RunRequest(
            run_key=f"stale:{BULK_JOB}:{key}",
            job_name=BULK_JOB,
            run_config=bulk_config(tuple(chains), automatic=True),
            tags={STALE_TAG: f"{len(chains)} experiments"},
        )
        return Asking((request,), keys, f"{len(chains)} experiments to launch, {describe_way(bulk=True)}")
    requests = tuple(
        dg.RunRequest(
            run_key=plan.run_key,
            job_name=job,
            partition_key=plan.experiment,
            asset_selection=[dg.AssetKey(step) for step in plan.automatic],
            tags={STALE_TAG: plan.automatic[0]},
        )
        for plan in todo
    )
    return Asking(requests, keys, f"{len(chains)} experiments to launch, {describe_way(bulk=False)}" if chains else "")


def make_report_sensor(job: str, *, interval_s: int = REPORT_S) -> dg.SensorDefinition:
    """Make the sensor that keeps the check `up_to_date` of every experiment true; it starts nothing."""

    @dg.sensor(
        name=REPORT,
        job_name=job,
        minimum_interval_seconds=interval_s,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Asks for a report when experiments became stale or fresh, files changed or lost included; it "
        "shows in the check `up_to_date` of the final table. Computes nothing.",
    )
    def report_staleness(context: dg.SensorEvaluationContext, workspace: WorkspaceResource) -> dg.SensorResult:
        reported = read_cursor(context.cursor, kind=Reported)
        opened = workspace.open()
        plans = plan_known(opened, instance=context.instance)
        targets = {
            plan.experiment: find_target(context.instance, pipeline=opened.pipeline, experiment=plan.experiment)
            for plan in plans
        }
        latest = {name: target.storage_id for name, target in targets.items() if target is not None}
        news = find_news(plans, reported=reported.digests, targets=latest)
        for plan in news.plans:
            context.log.info(f"{plan.experiment}: {summarise(plan)}")
        cursor = Reported(digests=dict(news.digests)).model_dump_json()
        if not news.plans:
            return dg.SensorResult(cursor=cursor, skip_reason=f"{len(plans)} experiments looked at, no news")
        names = [plan.experiment for plan in news.plans]
        key = hash_json([[name, news.digests[name]] for name in names])[:_DIGEST]
        config = dg.RunConfig(ops={REPORT_OP: {"config": {"experiments": names}}})
        run_key = f"report:{key}:{time.time_ns()}"  # the same news may come again after other news
        return dg.SensorResult(run_requests=[dg.RunRequest(run_key=run_key, run_config=config)], cursor=cursor)

    return report_staleness


def make_launch_sensor(pipeline: UnresolvedAssetJobDefinition, *, bulk: dg.JobDefinition) -> dg.SensorDefinition:
    """Make the sensor that launches what is stale; its tick preview shows the plan and the way.

    Parameters
    ----------
    pipeline
        Job of one experiment.
    bulk
        Job of one run over many.
    """

    @dg.sensor(
        name=LAUNCH,
        jobs=[pipeline, bulk],
        minimum_interval_seconds=LAUNCH_S,
        default_status=dg.DefaultSensorStatus.STOPPED,
        description="Launches one run per experiment over its stale steps; many that wait for a cluster go as one run. "
        "Preview a tick to see the plan. A step that failed is not launched again for the same reasons.",
    )
    def stale_experiments(context: dg.SensorEvaluationContext, workspace: WorkspaceResource) -> dg.SensorResult:
        asked = read_cursor(context.cursor, kind=Asked)
        plans = plan_known(workspace.open(), instance=context.instance, launching=True)
        for plan in plans:
            if plan.pending or plan.held or plan.problem:
                context.log.info(f"{plan.experiment}: {summarise(plan)}")
        asking = ask_for_runs(
            plans,
            asked=asked.keys,
            place_of=workspace.place_names(),
            chained=workspace.chained,
            job=pipeline.name,
        )
        if asking.way:
            context.log.info(asking.way)
        cursor = Asked(keys=dict(asking.keys)).model_dump_json()
        nothing = None if asking.requests else f"{len(plans)} experiments looked at, nothing to launch"
        return dg.SensorResult(run_requests=list(asking.requests), skip_reason=nothing, cursor=cursor)

    return stale_experiments
