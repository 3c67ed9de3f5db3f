"""Step `embryo_metadata` (build03): shape, viability, flags, predicted stage and perturbation per embryo and frame.

Pixels are measured well by well (`embryo_measurements.py`); whole series and tables are judged here, by the functions
of `morphometry`, `quality` and `plate`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from morphseq_dagster.engine.contract.context import Account, StepContext
from morphseq_dagster.engine.contract.step import StepResult
from morphseq_dagster.errors import ContractError
from morphseq_dagster.identifiers import parse_embryo
from morphseq_dagster.morphometry.viability import infer_viability
from morphseq_dagster.morphseq.contracts.built_metadata import CONTRACT as FRAMES
from morphseq_dagster.morphseq.contracts.embryo_metadata import CONTRACT, FLAGS
from morphseq_dagster.morphseq.contracts.qc_masks import QcMasks
from morphseq_dagster.morphseq.contracts.sam2_metadata import CONTRACT as SAM2
from morphseq_dagster.morphseq.recipes import EmbryoMetadataRecipe
from morphseq_dagster.morphseq.steps.curation import apply_overrides
from morphseq_dagster.morphseq.steps.embryo_measurements import measure_embryos
from morphseq_dagster.plate.perturbation_key import join_perturbations, read_perturbation_key
from morphseq_dagster.quality.embryo_flags import judge_dead
from morphseq_dagster.quality.parameters import UseEmbryoSettings
from morphseq_dagster.quality.staging import predict_stage
from morphseq_dagster.quality.tri_state import verdict_columns
from morphseq_dagster.quality.use_embryo import decide_use

_FOV = {
    "width_um": "fov_width_um",
    "height_um": "fov_height_um",
    "width_px": "fov_width_px",
    "height_px": "fov_height_px",
}
_PLATE = ("start_age_label", "temperature_source", "pair", "um_per_px")


def run(context: StepContext) -> StepResult:
    """Make the embryo table of an experiment."""
    recipe = context.recipe(EmbryoMetadataRecipe)
    context.document("qc_masks", QcMasks)  # unavailable: every flag that needs such a mask is unknown
    measured = measure_embryos(context)
    table = _spine(context, measured.table)
    table = pd.concat([table, infer_viability(_optics(table), settings=recipe.viability)], axis=1)
    dead = [judge_dead(value, settings=recipe.flags) for value in table["fraction_alive"]]
    table = pd.concat([table, verdict_columns(dead, name="dead_flag", index=table.index)], axis=1)
    ages = table["start_age_hpf"].astype("object").where(table["start_age_hpf"].notna(), table["start_age_label"])
    table = pd.concat([table, predict_stage(table.assign(start_age_hpf=ages), settings=recipe.staging)], axis=1)
    table["speed_um_per_s"] = _speed(table)
    key_path = context.external("perturbation_key")
    key = read_perturbation_key(key_path) if key_path is not None else None
    joined = join_perturbations(table, key=key, naming=recipe.perturbation_naming)
    table = joined.table
    overrides = context.external("curation")
    table = apply_overrides(table, path=overrides, flags=FLAGS)
    use = decide_use(table, settings=UseEmbryoSettings(policy="build03_legacy"))
    table = pd.concat([table, use], axis=1)
    missing = [] if key is not None else ["no perturbation key: phenotype and control_flag are null"]
    unmatched = [f"not in the perturbation key: {', '.join(joined.unmatched)}"] if key and joined.unmatched else []
    account = Account(
        wells=measured.states,
        counts={
            "embryos": table["embryo_id"].nunique(),
            "dead_rows": int((table["dead_flag"] == True).sum()),  # noqa: E712 - null is not dead
            "chorion_masks": int((table["mask_target"] == "chorion").sum()),
            "wells_computed": measured.computed,
        },
        warnings=(*missing, *unmatched),
    )
    return context.stage_table(_blank_to_null(table)[list(CONTRACT.names)], contract=CONTRACT, account=account)


def _spine(context: StepContext, measured: pd.DataFrame) -> pd.DataFrame:
    """Join identities, frame geometry, plate and measurements; every row must find its measurement."""
    sam2 = context.table("sam2_metadata", SAM2)
    frames = context.table("built_metadata", FRAMES)
    table = sam2.drop(columns=["area_px", "mask_confidence"]).rename(columns=_FOV)
    table = table.merge(frames[["well", "time_int", *_PLATE]], on=["well", "time_int"], how="left", validate="m:1")
    merged = table.merge(measured, on="snip_id", how="left", validate="1:1", indicator=True)
    lost = merged.loc[(merged["_merge"] != "both") & ~merged["well"].isin(_failed_wells(measured)), "snip_id"]
    if len(lost):
        raise ContractError(
            expected="a measured mask for every row of sam2_metadata",
            found=f"none for {', '.join(lost[:20])}",
            where=context.request.output,
            remedy=f"morphseq materialize --partition {context.experiment} --select exported_masks --force",
        )
    merged = merged[merged["_merge"] == "both"].drop(columns="_merge").reset_index(drop=True)
    merged["xpos"] = (merged["bbox_x_min"] + merged["bbox_x_max"]) / 2
    merged["ypos"] = (merged["bbox_y_min"] + merged["bbox_y_max"]) / 2
    merged["region_label"] = [parse_embryo(embryo_id)[2] for embryo_id in merged["embryo_id"]]
    merged["experiment_date"] = merged["experiment_id"]
    merged["well_id"] = merged["video_id"]
    merged["surface_area_um"] = merged["area_um2"]
    merged["sam2_qc_flag"] = merged["sam2_qc_flags"].fillna("") != ""
    return merged


def _failed_wells(measured: pd.DataFrame) -> list[str]:
    return list(measured.attrs.get("failed_wells", ()))


def _optics(table: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "embryo_id": table["embryo_id"],
            "time_s": table["Time Rel (s)"],
            "transmission": table["body_transmission"],
            "texture": table["body_texture"],
        }
    )


def _speed(table: pd.DataFrame) -> pd.Series[float]:
    """Speed of each embryo since its own previous frame in um/s; null in its first frame or without scale or time."""
    ordered = table.sort_values(["embryo_id", "time_int"], kind="stable")
    steps = ordered.groupby("embryo_id", sort=False)[["centroid_x_um", "centroid_y_um", "Time Rel (s)"]].diff()
    seconds = steps["Time Rel (s)"].where(steps["Time Rel (s)"] > 0)
    speed = np.hypot(steps["centroid_x_um"].astype(float), steps["centroid_y_um"].astype(float)) / seconds
    return pd.Series(speed, index=ordered.index).reindex(table.index)


def _blank_to_null(table: pd.DataFrame) -> pd.DataFrame:
    """Reasons that say nothing are null, so that reading the table back gives the same table."""
    texts: dict[str, Any] = {
        name: table[name].astype("string").replace("", None)
        for name in table.columns
        if name.endswith("_reason") or name == "sam2_qc_flags"
    }
    return table.assign(**texts)
