"""`morphseq retire`: take an experiment whose raw folder is gone out of Dagster's partitions; its files stay."""

from __future__ import annotations

from typing import Annotated

import typer

from morphseq_dagster.cli.messages import print_error
from morphseq_dagster.cli.options import Apply, Call, refusing_call, verb
from morphseq_dagster.engine.planner.inventory import list_artifacts
from morphseq_dagster.engine.planner.retirement import mark_retired, refuse_retirement
from morphseq_dagster.engine.storage.atomic_io import host_name
from morphseq_dagster.errors import MorphseqError, PermanentError


@verb(example="morphseq retire 20240101")
def retire(
    call: Call,
    experiment: Annotated[str, typer.Argument(help="Experiment whose raw folder is gone.")],
    *,
    apply: Apply = False,
) -> None:
    """Take an experiment out of Dagster; its files stay."""
    layout = call.workspace.layout
    records = sum(entry.has_record for entry in list_artifacts(call.workspace, experiments=[experiment]))
    with refusing_call():
        refuse_retirement(call.workspace, experiment=experiment)
    from morphseq_dagster.assets.reporting import remove_partition
    from morphseq_dagster.cli.launch import open_instance
    from morphseq_dagster.partitions import find_runs_in_flight

    with open_instance() as (instance, lasting):
        runs = find_runs_in_flight(instance, pipeline=call.workspace.pipeline, experiment=experiment)
        if runs:
            print_error(_busy(experiment, runs=runs))
            raise typer.Exit(1)
        if not apply:
            print(
                f"{experiment}: its partition would be removed; {records} records and their files would stay (--apply)"
            )
            return
        removed = remove_partition(instance, pipeline=call.workspace.pipeline, experiment=experiment)
    mark_retired(layout, experiment=experiment, host=host_name(), records=records)
    where = "removed" if removed else "not known to Dagster" if lasting else "unknown (DAGSTER_HOME is not set)"
    print(f"{experiment}: retired; partition {where}, {records} records kept")


def _busy(experiment: str, *, runs: tuple[str, ...]) -> MorphseqError:
    return PermanentError(
        expected="no queued or running run",
        found=f"{len(runs)}: {', '.join(runs)}",
        where=f"experiment {experiment}",
        remedy="wait for them or cancel them; `morphseq doctor` ends runs whose process is dead",
    )
