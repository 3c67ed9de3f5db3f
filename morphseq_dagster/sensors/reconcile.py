"""Sensor of reconciliation: every few minutes it names the files that were changed behind the pipeline's back.

It looks at sizes, times and inodes only, keeps Dagster's events equal to the records, and changes no file:
`morphseq reconcile` acts.
"""

# Dagster reads the annotations of the sensor's body at run time, hence no postponed evaluation in this module.
from collections import Counter
from typing import Final

import dagster as dg

from morphseq_dagster.assets.reporting import Reported, report_records
from morphseq_dagster.engine.planner.reconcile import Reconciliation, reconcile
from morphseq_dagster.resources.workspace import WorkspaceResource

SENSOR: Final = "reconcile"
INTERVAL_S: Final = 300
EVENTS: Final = 400
"""Most events written per tick: one takes up to 50 ms, and the daemon ends a tick after a minute."""
_NAMED: Final = 20


def summarise(found: Reconciliation, *, done: Reported) -> str:
    """Sum up in one line what a tick found and reported."""
    counts = Counter(finding.kind.value for finding in found.remaining)
    kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(counts.items())) or "no findings"
    news = f"; reported {done.reported} artifacts and {done.tombstones} missing files to Dagster"
    return f"{found.checked} artifacts: {kinds}" + (news if done.reported or done.tombstones else "")


def make_reconcile_sensor(core: dg.Definitions) -> dg.SensorDefinition:
    """Make the sensor; records of the core's assets become events."""

    @dg.sensor(
        name=SENSOR,
        minimum_interval_seconds=INTERVAL_S,
        default_status=dg.DefaultSensorStatus.STOPPED,
        description="Looks for files that were edited, deleted or replaced behind the pipeline's back, and keeps the "
        "events here equal to the records on the disk. Computes nothing, changes no file.",
    )
    def reconcile_files(context: dg.SensorEvaluationContext, workspace: WorkspaceResource) -> dg.SkipReason:
        opened = workspace.open()
        found = reconcile(opened)
        for finding in found.remaining[:_NAMED]:
            context.log.warning(f"{finding.kind.value} {finding.path}: {finding.detail}")
        done = report_records(context.instance, graph=core.resolve_asset_graph(), workspace=opened, limit=EVENTS)
        return dg.SkipReason(summarise(found, done=done))

    return reconcile_files
