"""Sensor of cluster jobs: every minute it looks after jobs whose run has ended.

What a tick does stands in `cluster_jobs.py`, which is imported where a cluster is set.
"""

# Dagster reads the annotations of the sensor's body at run time, hence no postponed evaluation in this module.
from typing import Final

import dagster as dg

from morphseq_dagster.resources.workspace import WorkspaceResource
from morphseq_dagster.settings.machine import PlacesSettings

SENSOR: Final = "cluster_jobs"
INTERVAL_S: Final = 60


def make_jobs_sensor(core: dg.Definitions) -> dg.SensorDefinition:
    """Make the sensor; results that it finds become events of the core's assets."""

    @dg.sensor(
        name=SENSOR,
        minimum_interval_seconds=INTERVAL_S,
        default_status=dg.DefaultSensorStatus.STOPPED,
        description="Looks after cluster jobs whose run has ended: reports results, closes what is over, cancels the "
        "jobs of cancelled runs; places.slurm.orphans decides about the jobs of failed and killed ones.",
    )
    def look_after_jobs(context: dg.SensorEvaluationContext, workspace: WorkspaceResource) -> dg.SkipReason:
        settings = PlacesSettings.model_validate_json(workspace.places).slurm
        if settings is None:
            return dg.SkipReason("the machine settings have no section places.slurm")
        from morphseq_dagster.sensors import cluster_jobs

        words = cluster_jobs.look_after_jobs(context, workspace=workspace.open(), settings=settings, core=core)
        return dg.SkipReason(words)

    return look_after_jobs
