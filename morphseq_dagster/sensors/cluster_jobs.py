"""Cluster jobs whose run has ended: what a tick of their sensor does, and `morphseq jobs --reconcile` as well.

What becomes of which job is decided in `cluster/orphans.py`; the sensor itself is `jobs.py`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection
from functools import cache
from typing import Any, Final

import dagster as dg

from morphseq_dagster.assets.reporting import Reported, report_records
from morphseq_dagster.cluster.connection import connect
from morphseq_dagster.cluster.orphans import Orphan, OrphanAction, Survey, settle_orphans, survey_jobs
from morphseq_dagster.engine.workspace import Workspace
from morphseq_dagster.runs.states import state_of_run
from morphseq_dagster.settings.slurm import SlurmSettings

EVENTS: Final = 400
"""Most events written per tick, as in the other sensors; the rest is for the next one that finds something."""
_NAMED: Final = 20
_HANDLED: Final = (OrphanAction.DONE, OrphanAction.CLOSED, OrphanAction.CANCELLED)


def survey_cluster(instance: dg.DagsterInstance, *, workspace: Workspace, settings: SlurmSettings | None) -> Survey:
    """Look at every job without a verdict, with what this instance knows of their runs."""
    layout = workspace.layout
    return survey_jobs(
        layout,
        client=None if settings is None else connect(settings, data_root=layout.data_root)[0],
        state_of=cache(lambda run_id: state_of_run(instance, run_id)),
        policy="keep" if settings is None else settings.orphans,
        after_s=0.0 if settings is None else settings.orphans_after_s,
    )


def settle_cluster(*, workspace: Workspace, settings: SlurmSettings, survey: Survey) -> tuple[Orphan, ...]:
    """Do what a survey proposes."""
    client = connect(settings, data_root=workspace.layout.data_root)[0]
    return settle_orphans(workspace.layout, client=client, survey=survey)


def report_done(
    instance: dg.DagsterInstance, *, orphans: Collection[Orphan], graph: Callable[[], Any], workspace: Workspace
) -> Reported:
    """Report the results of jobs that were closed as done to Dagster, as materialisations without a run."""
    experiments = {orphan.experiment for orphan in orphans if orphan.action is OrphanAction.DONE}
    if not experiments:
        return Reported()
    return report_records(instance, graph=graph(), workspace=workspace, experiments=experiments, limit=EVENTS)


def summarise(orphans: Collection[Orphan], *, trouble: str, reported: Reported) -> str:
    """Describe in one line what a tick found and did."""
    counts = Counter(orphan.action.value for orphan in orphans)
    actions = ", ".join(f"{count} {action}" for action, count in sorted(counts.items())) or "none without a verdict"
    change = f"; reported {reported.reported} artifacts to Dagster" if reported.reported else ""
    return f"jobs: {actions}{change}" + (f"; the cluster could not be asked: {trouble}" if trouble else "")


def look_after_jobs(
    context: dg.SensorEvaluationContext, *, workspace: Workspace, settings: SlurmSettings, core: dg.Definitions
) -> str:
    """Do what one tick of the sensor does; describe it in one line."""
    survey = survey_cluster(context.instance, workspace=workspace, settings=settings)
    orphans = settle_cluster(workspace=workspace, settings=settings, survey=survey)
    for orphan in [orphan for orphan in orphans if orphan.action in _HANDLED][:_NAMED]:
        context.log.info(f"{orphan.experiment} {orphan.step}: {orphan.action.value} ({orphan.reason})")
    reported = report_done(context.instance, orphans=orphans, graph=core.resolve_asset_graph, workspace=workspace)
    return summarise(orphans, trouble=survey.trouble, reported=reported)
