"""Plate table: one row per well of the plate, as the workbook says (spec, science 2)."""

from __future__ import annotations

from morphseq_dagster.engine.tables.table import Column, TableContract

PLATE_COLUMNS = (
    Column("medium", "str", "Medium of the well", nullable=True),
    Column("genotype", "str", "Genotype", nullable=True),
    Column("chem_perturbation", "str", "Chemical perturbation; null for none", nullable=True),
    Column("start_age_hpf", "float", "Age at the first frame", "hpf", nullable=True, minimum=0),
    Column("embryos_per_well", "float", "Embryos put into the well", "count", nullable=True, minimum=0),
    Column("temperature", "float", "Temperature of the well", "degC", nullable=True, minimum=0, maximum=50),
    Column("pair", "str", "Parent pair", nullable=True),
)
CONTRACT = TableContract(
    "plate_metadata",
    (
        Column("experiment_id", "str", "Experiment"),
        Column("well", "str", "Well A01..H12"),
        *PLATE_COLUMNS,
        Column("start_age_label", "str", "Start age where the workbook holds a name instead of hours", nullable=True),
    ),
    key=("well",),
    order=("well",),
    extra=True,
    may_be_empty=False,
)
