"""The cohort: final tables of all experiments in one, on demand, with an account of who is in it and who is not.

Holds request and body; who is a member is read by `lineage.cohort`. It is no step of the registry: its inputs are all
experiments, and nothing launches it unasked.
"""

from __future__ import annotations

from typing import Final

from morphseq_dagster.engine.contract.context import Account, StepContext
from morphseq_dagster.engine.contract.step import StepRequest, StepResult, StepSpec
from morphseq_dagster.engine.layout import COHORT, Layout
from morphseq_dagster.engine.planner.cohort import MEMBER, read_manifest
from morphseq_dagster.errors import PermanentError
from morphseq_dagster.morphseq.contracts.cohort_final import CONTRACT
from morphseq_dagster.morphseq.contracts.embryo_latents_final import CONTRACT as FINAL

SPEC: Final = StepSpec(
    "cohort_final",
    1,
    "morphseq_dagster.morphseq.steps.cohort_final:run",
    (),
    "The final tables of all experiments in one; made by `morphseq cohort`, never unasked.",
    group="cohort",
    stage="cohort",
    kinds=frozenset({"csv"}),
)


def build_cohort_request(layout: Layout, *, run_id: str) -> StepRequest:
    """Make the request from the experiments whose final table stands as recorded (`lineage.cohort`).

    Raises
    ------
    PermanentError
        When no experiment has a final table.
    """
    manifest = read_manifest(layout)
    if not manifest.included:
        raise PermanentError(
            expected="at least one final table",
            found="none",
            where=str(layout.primary(MEMBER, experiment="{exp}").parent),
            remedy="morphseq pipeline e2e",
        )
    return StepRequest(
        experiment=COHORT,
        step=SPEC.name,
        version=SPEC.version,
        recipe={},
        inputs=manifest.inputs(),
        output=layout.relative(layout.primary(SPEC.name, experiment=COHORT)),
        data_root=str(layout.data_root),
        run_id=run_id,
    )


def run(request: StepRequest) -> StepResult:
    """Concatenate the members' tables."""
    import pandas as pd  # the definitions import this module, and have no other use for it

    context = StepContext(request)
    members = [entry for entry in request.inputs if entry.sha256 is not None]
    tables = [context.table(entry.name, FINAL) for entry in members]
    table = pd.concat(tables, ignore_index=True)
    reasons = {member.experiment: member.exclusion for member in read_manifest(context.layout).excluded}
    absent = [entry.name for entry in request.inputs if entry.sha256 is None]
    left_out = [f"{name} is left out: {reasons.get(name, 'it changes right now')}" for name in absent]
    models = sorted(set(table["latent_model"]))
    mixed = [f"latents of {len(models)} models stand side by side: {', '.join(models)}"] if len(models) > 1 else []
    counts = {"experiments": len(members), "left_out": len(left_out)}
    counts |= {f"rows {entry.name}": len(t) for entry, t in zip(members, tables, strict=True)}
    account = Account(counts=counts, warnings=(*left_out, *mixed))
    return context.stage_table(table, contract=CONTRACT, account=account)
