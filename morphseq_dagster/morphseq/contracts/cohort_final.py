"""Cohort table: the final tables of all experiments, one below the other."""

from __future__ import annotations

from morphseq_dagster.engine.tables.table import TableContract
from morphseq_dagster.morphseq.contracts.embryo_latents_final import CONTRACT as FINAL

CONTRACT = TableContract(
    "cohort_final",
    FINAL.columns,
    key=("snip_id",),
    order=("experiment_id", "video_id", "time_int", "embryo_id"),
    extra=True,
)
