"""Build: make the Definitions of a registry and a machine's settings; tests and the module `definitions` call it."""

from __future__ import annotations

from typing import Any

import dagster as dg

from morphseq_dagster.assets.cohort import cohort_final
from morphseq_dagster.assets.factory import IO_MANAGER_KEY, make_assets
from morphseq_dagster.assets.freshness import make_freshness_check
from morphseq_dagster.engine.executors.runner_outcome import DEFAULT_REGISTRY
from morphseq_dagster.engine.workspace import load_registry
from morphseq_dagster.io_managers.artifacts import ArtifactIOManager
from morphseq_dagster.jobs.bulk import make_bulk_job
from morphseq_dagster.jobs.materialize_stale import make_stale_job
from morphseq_dagster.jobs.report_staleness import REPORT_JOB, report_staleness
from morphseq_dagster.resources.workspace import WorkspaceResource
from morphseq_dagster.sensors.jobs import make_jobs_sensor
from morphseq_dagster.sensors.new_experiments import make_sensor
from morphseq_dagster.sensors.reconcile import make_reconcile_sensor
from morphseq_dagster.sensors.staleness import make_launch_sensor, make_report_sensor
from morphseq_dagster.settings import MachineSettings

PIPELINE_JOB = "pipeline"
COHORT_JOB = "cohort"


def build_definitions(settings: MachineSettings, *, registry: str = DEFAULT_REGISTRY) -> dg.Definitions:
    """Make the Definitions of one registry on one machine."""
    resource = WorkspaceResource.from_settings(settings, registry=registry)
    assets = make_assets(load_registry(registry))
    pipeline = dg.define_asset_job(
        PIPELINE_JOB,
        selection=dg.AssetSelection.assets(*(asset.key for asset in assets)),
        description="The whole way of one experiment.",
    )
    bulk = make_bulk_job(lambda: build_definitions(settings, registry=registry))
    jobs: list[Any] = [pipeline, bulk]
    checks: list[dg.AssetChecksDefinition] = []
    sensors = [
        make_sensor(PIPELINE_JOB),
        make_reconcile_sensor(lambda: build_definitions(settings, registry=registry).resolve_asset_graph()),
        make_jobs_sensor(lambda: build_definitions(settings, registry=registry).resolve_asset_graph()),
    ]
    if registry == DEFAULT_REGISTRY:  # other registries have no final table to merge or to judge
        jobs.append(
            dg.define_asset_job(
                COHORT_JOB,
                selection=dg.AssetSelection.assets(cohort_final.key),
                description="Merge the final tables of all experiments.",
            )
        )
        assets = [*assets, cohort_final]
        checks.append(make_freshness_check())
        sensors += [
            make_report_sensor(REPORT_JOB, interval_s=settings.report_every_s),
            make_launch_sensor(pipeline, bulk=bulk),
        ]
        jobs.append(report_staleness)
        jobs.append(
            make_stale_job(pipeline=PIPELINE_JOB, definitions=lambda: build_definitions(settings, registry=registry))
        )
    return dg.Definitions(
        assets=assets,
        jobs=jobs,
        asset_checks=checks,
        sensors=sensors,
        resources={"workspace": resource, IO_MANAGER_KEY: ArtifactIOManager(resource.open())},
        executor=dg.in_process_executor,
    )
