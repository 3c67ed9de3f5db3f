"""Final table (build06): every row of build04 with its latents; null where there is no snip."""

from __future__ import annotations

from morphseq_dagster.engine.tables.table import Column, TableContract
from morphseq_dagster.morphseq.contracts.qc_staged import CONTRACT as STAGED

CONTRACT = TableContract(
    "embryo_latents_final",
    (
        *STAGED.columns,
        Column("latent_model", "str", "Model that made the latents"),
        Column("latent_model_sha256", "str", "Hash of the model: of its weights, or of name and version without any"),
    ),
    key=STAGED.key,
    order=STAGED.order,
    extra=True,
)
