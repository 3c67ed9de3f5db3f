"""Cohort table: the final tables of all experiments, one below the other."""

from __future__ import annotations

from morphseq_dagster.contracts.embryo_latents_final import CONTRACT as FINAL
from morphseq_dagster.contracts.table import TableContract

CONTRACT = TableContract(
    "cohort_final",
    FINAL.columns,
    key=("snip_id",),
    order=("experiment_id", "video_id", "time_int", "embryo_id"),
    extra=True,
)
