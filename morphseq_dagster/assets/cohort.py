"""The cohort asset: unpartitioned, launched by its own job and by `morphseq cohort` only.

Holds the asset. A selection of everything with a partition runs unpartitioned assets as well, hence the asset yields
nothing in a run of one experiment.
"""

# Dagster reads the annotations of an asset's body at run time, hence no postponed evaluation in this module.
from collections.abc import Iterator
from typing import Any

import dagster as dg

from morphseq_dagster.assets.factory import IO_MANAGER_KEY, OWNERS, run_step
from morphseq_dagster.engine.layout import COHORT
from morphseq_dagster.morphseq.steps.cohort_final import SPEC, build_cohort_request
from morphseq_dagster.resources.workspace import WorkspaceResource

_PARTITION_TAG = "dagster/partition"


@dg.asset(
    name=SPEC.name,
    deps=[dg.AssetDep("embryo_latents_final", partition_mapping=dg.AllPartitionMapping())],
    code_version=str(SPEC.version),
    description=SPEC.description,
    group_name=SPEC.group,
    kinds=set(SPEC.kinds),
    owners=OWNERS,
    tags={"stage": SPEC.stage},
    io_manager_key=IO_MANAGER_KEY,
    output_required=False,
)
def cohort_final(
    context: dg.AssetExecutionContext, workspace: WorkspaceResource
) -> Iterator[dg.MaterializeResult[Any]]:
    """Merge the final tables of all experiments."""
    if _PARTITION_TAG in context.run.tags:
        context.log.info("a run of one experiment leaves the cohort as it is; launch it with `morphseq cohort`")
        return
    layout = workspace.open().layout
    yield from run_step(
        SPEC,
        context=context,
        resource=workspace,
        experiment=COHORT,
        make_request=lambda: build_cohort_request(layout, run_id=context.run.run_id),
    )
