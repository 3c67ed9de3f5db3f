"""Step `built_metadata`: one row per well and time, frame geometry and times joined with the plate.

Neither detection nor segmentation reads this table, so that an edit of the workbook stays cheap.
"""

from __future__ import annotations

import pandas as pd

from morphseq_dagster.engine.contract.context import Account, StepContext
from morphseq_dagster.engine.contract.step import StepResult
from morphseq_dagster.errors import PermanentError
from morphseq_dagster.identifiers import mint_video
from morphseq_dagster.morphseq.contracts.built_metadata import CONTRACT
from morphseq_dagster.morphseq.contracts.ff_images import FfImages
from morphseq_dagster.morphseq.contracts.plate_metadata import CONTRACT as PLATE
from morphseq_dagster.morphseq.recipes import BuiltMetadataRecipe


def run(context: StepContext) -> StepResult:
    """Join frames and plate; every well with pictures must have a start age and a temperature."""
    recipe = context.recipe(BuiltMetadataRecipe)
    frames = _frame_rows(context.document("ff_images", FfImages), experiment=context.experiment)
    plate = context.table("plate_metadata", PLATE).drop(columns="experiment_id")
    plate["temperature_source"] = plate["temperature"].notna().map({True: "workbook", False: None})
    if recipe.default_temperature_c is not None:
        blank = plate["temperature"].isna()
        plate.loc[blank, "temperature"] = recipe.default_temperature_c
        plate.loc[blank, "temperature_source"] = "recipe"
    table = frames.merge(plate, on="well", how="left", validate="many_to_one")
    _refuse_blank(table, context=context)
    table["well_qc_flag"] = pd.Series(pd.NA, index=table.index, dtype="string")
    return context.stage_table(table, contract=CONTRACT, account=Account(counts={"wells": table["well"].nunique()}))


def _frame_rows(images: FfImages, *, experiment: str) -> pd.DataFrame:
    times = [frame.time_s for frame in images.frames if frame.time_s is not None]
    start = min(times, default=None)
    rows = []
    for frame in images.frames:
        scale = frame.um_per_px
        rows.append(
            {
                "well_id": mint_video(experiment, well=frame.well),
                "well": frame.well,
                "time_int": frame.time_int,
                "time_string": f"T{frame.time_int:04d}",
                "Height (um)": None if scale is None else frame.raw_height_px * scale,
                "Height (px)": frame.raw_height_px,
                "Width (um)": None if scale is None else frame.raw_width_px * scale,
                "Width (px)": frame.raw_width_px,
                "um_per_px": scale,
                "BF Channel": frame.channel,
                "Channel": frame.channel_name,
                "Objective": frame.objective,
                "Time (s)": frame.time_s,
                "Time Rel (s)": None if frame.time_s is None or start is None else frame.time_s - start,
                "microscope": images.microscope,
                "nd2_series_num": None,
                "experiment_date": experiment,
            }
        )
    return pd.DataFrame(rows)


def _refuse_blank(table: pd.DataFrame, *, context: StepContext) -> None:
    """Refuse wells with pictures whose plate row says neither age nor temperature, all of them at once."""
    by_well = table.drop_duplicates("well").set_index("well")
    no_age = by_well["start_age_hpf"].isna() & by_well["start_age_label"].isna()
    problems = [
        f"{what} is blank for {', '.join(wells)}"
        for what, wells in (
            ("start_age_hpf", list(by_well.index[no_age])),
            ("temperature", list(by_well.index[by_well["temperature"].isna()])),
        )
        if wells
    ]
    if problems:
        raise PermanentError(
            expected="a start age and a temperature for every well with pictures",
            found="; ".join(problems),
            where=f"plate workbook of {context.experiment} (metadata/well_metadata)",
            remedy="fill the cells in, or set built_metadata.default_temperature_c in the recipe for the temperature",
        )
