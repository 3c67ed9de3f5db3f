"""Latents of one model: one row per snip, `z_mu_...` columns, and `z_sigma_...` where the model has a spread."""

from __future__ import annotations

from morphseq_dagster.engine.tables.table import Column, TableContract

CONTRACT = TableContract(
    "latents",
    (
        Column("experiment_date", "str", "Experiment id (its old name)"),
        Column("embryo_id", "str", "Embryo"),
        Column("snip_id", "str", "Embryo in this frame; primary key"),
    ),
    key=("snip_id",),
    order=("snip_id",),
    extra=True,
)
