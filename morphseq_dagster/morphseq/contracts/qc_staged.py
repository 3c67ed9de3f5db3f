"""Quality and stage table (build04): the embryo table with death, surface area, stage and the decision to use a row."""

from __future__ import annotations

from morphseq_dagster.engine.tables.table import Column, TableContract
from morphseq_dagster.morphseq.contracts.embryo_metadata import CONTRACT as EMBRYOS

_ADDED = (
    Column("out_of_frame_flag", "bool", "Whether the snip lost part of the embryo", nullable=True),
    Column("dead_flag2", "bool", "From some hours before the death on", nullable=True),
    Column("dead_flag2_reason", "str", "Why it is unknown", nullable=True),
    Column("dead_inflection_time_int", "int", "Last frame before the decline", nullable=True, minimum=0),
    Column("sa_outlier_flag", "bool", "Too large or small for its stage", nullable=True),
    Column("sa_outlier_flag_reason", "str", "Why it is unknown", nullable=True),
    Column("sa_lower_limit_um2", "float", "Lower limit of the area", "um^2", nullable=True, decimals=1),
    Column("sa_upper_limit_um2", "float", "Upper limit of the area", "um^2", nullable=True, decimals=1),
    Column("inferred_stage_hpf", "float", "Stage from the area, an extra", "hpf", nullable=True, decimals=4),
    Column("inferred_stage_hpf_reason", "str", "Why there is none", nullable=True),
    Column("stage_reference_id", "str", "Which reference the stage was read from", nullable=True),
    Column("use_embryo_policy", "str", "Rule that decided"),
)
CONTRACT = TableContract("qc_staged", (*EMBRYOS.columns, *_ADDED), key=EMBRYOS.key, order=EMBRYOS.order)
