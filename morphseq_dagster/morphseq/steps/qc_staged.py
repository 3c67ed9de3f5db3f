"""Step `qc_staged` (build04): death, surface area, stage from the area, and which rows to use.

Each judgement is a function of `quality`. A flag that is unknown never excludes a row; its reason is named.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from morphseq_dagster.engine.contract.context import Account, StepContext
from morphseq_dagster.engine.contract.step import StepResult
from morphseq_dagster.morphseq.contracts.embryo_metadata import CONTRACT as EMBRYOS
from morphseq_dagster.morphseq.contracts.qc_staged import CONTRACT
from morphseq_dagster.morphseq.contracts.snips import Snips
from morphseq_dagster.morphseq.recipes import QcStagedRecipe
from morphseq_dagster.morphseq.steps.supplied_tables import naming_file, read_supplied_table
from morphseq_dagster.quality.death import infer_death
from morphseq_dagster.quality.staging import StageReference, infer_stage
from morphseq_dagster.quality.surface_area import SurfaceAreaCurve, flag_surface_area
from morphseq_dagster.quality.use_embryo import decide_use


def run(context: StepContext) -> StepResult:
    """Judge the rows of an experiment."""
    recipe = context.recipe(QcStagedRecipe)
    table = context.table("embryo_metadata", EMBRYOS).drop(columns=["use_embryo_flag", "use_embryo_reason"])
    snips = context.document("snips", Snips)
    curve = _read_curve(context.external("area_reference"))
    reference = _read_reference(context.external("stage_reference"))
    table["out_of_frame_flag"] = [_out_of_frame(snips, snip_id) for snip_id in table["snip_id"]]
    table["out_of_frame_flag"] = table["out_of_frame_flag"].astype("boolean")
    seconds = table.assign(time_s=table["Time Rel (s)"])
    parts = [
        table,
        infer_death(seconds, settings=recipe.death),
        flag_surface_area(table, curve=curve, settings=recipe.surface_area),
        infer_stage(table, reference=reference, settings=recipe.staging),
    ]
    table = pd.concat(parts, axis=1)
    table = pd.concat([table, decide_use(table, settings=recipe.use_embryo)], axis=1)
    table["use_embryo_policy"] = recipe.use_embryo.policy
    for name in table.columns:
        if name.endswith("_reason"):
            table[name] = table[name].astype("string").replace("", None)
    warnings = [] if curve is not None else ["no area reference: sa_outlier_flag is unknown"]
    warnings += [] if reference is not None else ["no stage reference: inferred_stage_hpf is null"]
    deaths = table.loc[table["dead_inflection_time_int"].notna(), "embryo_id"].nunique()
    counts = {
        "usable": int(table["use_embryo_flag"].sum()),
        "embryos": table["embryo_id"].nunique(),
        "dying_embryos": deaths,
    }
    account = Account(counts=counts, warnings=tuple(warnings))
    return context.stage_table(table[list(CONTRACT.names)], contract=CONTRACT, account=account)


def _read_curve(path: Path | None) -> SurfaceAreaCurve | None:
    if path is None:
        return None
    with naming_file(path):
        return SurfaceAreaCurve.from_table(read_supplied_table(path))


def _read_reference(path: Path | None) -> StageReference | None:
    if path is None:
        return None
    with naming_file(path):
        return StageReference.from_table(read_supplied_table(path))


def _out_of_frame(snips: Snips, snip_id: str) -> bool | None:
    """Whether the snip lost part of the embryo; unknown where there is no snip."""
    if snip_id in snips.snips:
        return snips.snips[snip_id].out_of_frame
    refused = snips.refused.get(snip_id)
    return None if refused is None else refused.out_of_frame
