"""Step `embryo_latents_final`: every staged row with its latents, null where there is no snip."""

from __future__ import annotations

from pathlib import PurePosixPath

from morphseq_dagster.engine.contract.context import Account, StepContext
from morphseq_dagster.engine.contract.step import StepResult
from morphseq_dagster.engine.storage.hashing import hash_json
from morphseq_dagster.engine.storage.records import read_record
from morphseq_dagster.errors import PermanentError
from morphseq_dagster.morphseq.contracts.embryo_latents_final import CONTRACT
from morphseq_dagster.morphseq.contracts.latents import CONTRACT as LATENTS
from morphseq_dagster.morphseq.contracts.qc_staged import CONTRACT as STAGED
from morphseq_dagster.morphseq.recipes import FinalRecipe

_COVERAGE_MIN = 0.9
"""Share of rows with latents below which people are warned (spec, science 8)."""


def run(context: StepContext) -> StepResult:
    """Join staged rows and latents."""
    recipe = context.recipe(FinalRecipe)
    staged = context.table("qc_staged", STAGED)
    latents = context.table("latents", LATENTS)
    columns = [name for name in latents.columns if name.startswith("z_")]
    latents[columns] = latents[columns].astype("float64")
    usable = int(staged["use_embryo_flag"].sum())
    if recipe.rows == "usable":
        staged = staged[staged["use_embryo_flag"]]
    model, sha256 = _identify_model(context)
    table = staged.assign(latent_model=model, latent_model_sha256=sha256).merge(
        latents[["snip_id", *columns]], on="snip_id", how="left", validate="one_to_one"
    )
    covered = int(table[columns[0]].notna().sum()) if columns else 0
    warnings: tuple[str, ...] = ()
    if covered < _COVERAGE_MIN * len(table):
        warnings = (f"{covered} of {len(table)} rows have latents",)
    counts = {"usable": usable, "rows_with_latents": covered, "embryos": table["embryo_id"].nunique()}
    return context.stage_table(table, contract=CONTRACT, account=Account(counts=counts, warnings=warnings))


def _identify_model(context: StepContext) -> tuple[str, str]:
    """Name and hash of the model, from the record of the very latents that are read."""
    entry = context.input("latents")
    record = read_record(context.layout, primary=context.layout.absolute(entry.path))
    if record is None or record.backend is None or record.data_version != entry.sha256:
        raise PermanentError(
            expected="latents whose record names their model",
            found="no such record",
            where=entry.path,
            remedy=f"morphseq materialize --partition {context.experiment} --select latents --force",
        )
    backend = record.backend
    digest = backend.weights_sha256 or hash_json([backend.name, backend.version])
    return PurePosixPath(entry.path).parent.name, digest
