"""Build: make the Definitions of a pipeline on a machine; tests and the module `definitions` call it.

The core - assets, the job of one key, resources - is made first and handed to the jobs and sensors that need it.
"""

from __future__ import annotations

import dagster as dg

from morphseq_dagster.assets.factory import IO_MANAGER_KEY, make_assets
from morphseq_dagster.assets.freshness import make_freshness_check
from morphseq_dagster.engine.pipeline import load_pipeline
from morphseq_dagster.io_managers.artifacts import ArtifactIOManager
from morphseq_dagster.jobs.bulk import make_bulk_job
from morphseq_dagster.jobs.materialize_stale import make_stale_job
from morphseq_dagster.jobs.report_staleness import make_report_job
from morphseq_dagster.partitions import PIPELINE_TAG
from morphseq_dagster.resources.workspace import WorkspaceResource
from morphseq_dagster.sensors.jobs import make_jobs_sensor
from morphseq_dagster.sensors.new_experiments import make_sensor
from morphseq_dagster.sensors.reconcile import make_reconcile_sensor
from morphseq_dagster.sensors.staleness import make_launch_sensor, make_report_sensor
from morphseq_dagster.settings.machine import MachineSettings

PIPELINE_JOB = "pipeline"
COHORT_JOB = "cohort"


def build_definitions(settings: MachineSettings, *, pipeline: str) -> dg.Definitions:
    """Make the Definitions of one pipeline on one machine.

    Parameters
    ----------
    settings
        The machine's settings.
    pipeline
        `module:attribute` of the pipeline.
    """
    workflow = load_pipeline(pipeline)
    resource = WorkspaceResource.from_settings(settings, pipeline=pipeline)
    assets = make_assets(workflow)
    tags = {PIPELINE_TAG: workflow.name}
    one = dg.define_asset_job(
        PIPELINE_JOB,
        selection=dg.AssetSelection.assets(*workflow.step_names),
        description=f"The whole way of one {workflow.keys.noun}.",
        tags=tags,
    )
    core = dg.Definitions(
        assets=assets,
        jobs=[one],
        resources={"workspace": resource, IO_MANAGER_KEY: ArtifactIOManager(resource.open())},
        executor=dg.in_process_executor,
    )
    bulk = make_bulk_job(core, tags=tags)
    jobs: list[dg.JobDefinition | dg.UnresolvedAssetJobDefinition] = [bulk]
    sensors = [make_reconcile_sensor(core), make_jobs_sensor(core)]
    checks: list[dg.AssetChecksDefinition] = []
    if workflow.sources is not None:
        sensors.append(make_sensor(PIPELINE_JOB))
    if workflow.cohort is not None:
        jobs.append(
            dg.define_asset_job(
                COHORT_JOB,
                selection=dg.AssetSelection.assets(workflow.cohort.name),
                description=f"Join {workflow.final} of every {workflow.keys.noun}.",
                tags=tags,
            )
        )
    if workflow.final:
        checks.append(make_freshness_check(workflow))
        report = make_report_job(tags=tags)
        sensors += [
            make_report_sensor(report.name, interval_s=settings.report_every_s),
            make_launch_sensor(one, bulk=bulk),
        ]
        jobs += [report, make_stale_job(core, job=PIPELINE_JOB, bulk=bulk, tags=tags)]
    return dg.Definitions.merge(core, dg.Definitions(jobs=jobs, asset_checks=checks, sensors=sensors))
