"""The cohort: final tables of all experiments in one, on demand, with an account of who is in it and who is not.

Holds request and body. It is no step of the registry: its inputs are all experiments, and nothing launches it unasked.
"""

from __future__ import annotations

import re
from typing import Final

import pandas as pd

from morphseq_dagster.contracts.cohort_final import CONTRACT
from morphseq_dagster.contracts.embryo_latents_final import CONTRACT as FINAL
from morphseq_dagster.errors import MorphseqError, PermanentError
from morphseq_dagster.identifiers import refuse_experiment
from morphseq_dagster.layout import COHORT, Layout
from morphseq_dagster.steps.contract import StepRequest, StepResult, StepSpec
from morphseq_dagster.steps.requests import artifact_input
from morphseq_dagster.steps.workbench import Account, Workbench
from morphseq_dagster.storage.records import InputRead, OutputVerdict, compare_output, read_record

SPEC: Final = StepSpec(
    "cohort_final",
    1,
    "morphseq_dagster.steps.cohort_final:run",
    (),
    "The final tables of all experiments in one; made by `morphseq cohort`, never unasked.",
    group="cohort",
    stage="cohort",
    kinds=frozenset({"csv"}),
)
_MEMBER = "embryo_latents_final"


def build_cohort_request(layout: Layout, *, run_id: str) -> StepRequest:
    """Make the request from the experiments whose final table stands as recorded.

    An experiment that is left out is an input without a hash, so that its return makes a new request.

    Raises
    ------
    PermanentError
        When no experiment has a final table.
    """
    inputs = [_member(layout, experiment=experiment) for experiment in find_members(layout)]
    if not any(entry.sha256 for entry in inputs):
        raise PermanentError(
            expected="at least one final table",
            found="none",
            where=str(layout.primary(_MEMBER, experiment="{exp}").parent),
            remedy="morphseq pipeline e2e",
        )
    return StepRequest(
        experiment=COHORT,
        step=SPEC.name,
        version=SPEC.version,
        recipe={},
        inputs=tuple(inputs),
        output=layout.relative(layout.primary(SPEC.name, experiment=COHORT)),
        data_root=str(layout.data_root),
        run_id=run_id,
    )


def find_members(layout: Layout) -> list[str]:
    """Experiments that have a final table, with or without a record, sorted."""
    pattern = layout.primary(_MEMBER, experiment="*")
    name = re.compile(re.escape(pattern.name).replace(r"\*", "(.+)"))
    found = (name.fullmatch(path.name) for path in pattern.parent.glob(pattern.name))
    return sorted(match[1] for match in found if match is not None and refuse_experiment(match[1]) is None)


def run(request: StepRequest) -> StepResult:
    """Concatenate the members' tables."""
    bench = Workbench(request)
    members = [entry for entry in request.inputs if entry.sha256 is not None]
    tables = [bench.table(entry.name, FINAL) for entry in members]
    table = pd.concat(tables, ignore_index=True)
    left_out = [_exclusion(bench.layout, experiment=e.name) for e in request.inputs if e.sha256 is None]
    models = sorted(set(table["latent_model"]))
    mixed = [f"latents of {len(models)} models stand side by side: {', '.join(models)}"] if len(models) > 1 else []
    counts = {"experiments": len(members), "left_out": len(left_out)}
    counts |= {f"rows {entry.name}": len(t) for entry, t in zip(members, tables, strict=True)}
    account = Account(counts=counts, warnings=(*left_out, *mixed))
    return bench.stage_table(table, contract=CONTRACT, account=account)


def _member(layout: Layout, *, experiment: str) -> InputRead:
    path = layout.primary(_MEMBER, experiment=experiment)
    if _exclusion(layout, experiment=experiment):
        return InputRead(name=experiment, path=layout.relative(path), sha256=None)
    record = read_record(layout, primary=path)
    if record is None:
        return InputRead(name=experiment, path=layout.relative(path), sha256=None)
    return artifact_input(experiment, record=record)


def _exclusion(layout: Layout, *, experiment: str) -> str:
    """Say why an experiment's table cannot be used; empty when it can."""
    path = layout.primary(_MEMBER, experiment=experiment)
    try:
        record = read_record(layout, primary=path)
    except MorphseqError as error:
        return f"{experiment} is left out: {error.found}"
    if record is None:
        return f"{experiment} is left out: its final table has no record"
    verdict = compare_output(layout, record=record)
    if verdict is OutputVerdict.AS_RECORDED:
        return ""
    return f"{experiment} is left out: its final table is {verdict.value}"
