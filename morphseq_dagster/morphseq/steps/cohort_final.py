"""The cohort: final tables of all experiments in one, on demand, with an account of who is in it and who is not.

Who is a member is read by `engine/cohort.py`. Nothing launches this step unasked.
"""

from __future__ import annotations

from morphseq_dagster.engine.cohort import read_manifest
from morphseq_dagster.engine.contract.context import Account, StepContext
from morphseq_dagster.engine.contract.step import StepResult
from morphseq_dagster.morphseq.contracts.cohort_final import CONTRACT
from morphseq_dagster.morphseq.contracts.embryo_latents_final import CONTRACT as FINAL
from morphseq_dagster.morphseq.pipeline import MORPHSEQ


def run(context: StepContext) -> StepResult:
    """Concatenate the members' tables."""
    import pandas as pd

    members = [entry for entry in context.request.inputs if entry.sha256 is not None]
    tables = [context.table(entry.name, FINAL) for entry in members]
    table = pd.concat(tables, ignore_index=True)
    manifest = read_manifest(MORPHSEQ, layout=context.layout)
    reasons = {member.experiment: member.exclusion for member in manifest.excluded}
    absent = [entry.name for entry in context.request.inputs if entry.sha256 is None]
    left_out = [f"{name} is left out: {reasons.get(name, 'it changes right now')}" for name in absent]
    models = sorted(set(table["latent_model"]))
    mixed = [f"latents of {len(models)} models stand side by side: {', '.join(models)}"] if len(models) > 1 else []
    counts = {"experiments": len(members), "left_out": len(left_out)}
    counts |= {f"rows {entry.name}": len(t) for entry, t in zip(members, tables, strict=True)}
    account = Account(counts=counts, warnings=(*left_out, *mixed))
    return context.stage_table(table, contract=CONTRACT, account=account)
