"""Step `experiment_metadata`: videos and images with frame geometry and plate values as one document (spec 1.6).

Only the tables after segmentation read it.
"""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from morphseq_dagster.engine.contract.context import Account, StepContext
from morphseq_dagster.engine.contract.step import StepResult
from morphseq_dagster.morphseq.contracts.built_metadata import CONTRACT as FRAMES
from morphseq_dagster.morphseq.contracts.experiment_metadata import (
    PLATE_NUMBERS,
    PLATE_TEXTS,
    VideoInfo,
    nest_images,
    nest_videos,
)
from morphseq_dagster.morphseq.contracts.organized_frames import ImageEntry, OrganizedFrames

_ALIASES = {
    "height_um": "Height (um)",
    "height_px": "Height (px)",
    "width_um": "Width (um)",
    "width_px": "Width (px)",
    "bf_channel": "BF Channel",
    "objective": "Objective",
    "raw_time_s": "Time (s)",
    "relative_time_s": "Time Rel (s)",
}
_PLAIN = ("Channel", "um_per_px", "experiment_date", "time_string", "microscope", "nd2_series_num")


def run(context: StepContext) -> StepResult:
    """Nest the frame table by video and image."""
    frames = context.document("organized_frames", OrganizedFrames)
    table = context.table("built_metadata", FRAMES)
    rows = {(row["well"], row["time_int"]): row for row in table.to_dict("records")}
    videos = [_video(context, well=well, images=images, rows=rows) for well, images in frames.videos().items()]
    document = nest_videos(context.experiment, videos=videos, images=frames.images)
    return context.stage_document(
        document, account=Account(counts={"videos": len(videos), "images": len(frames.images)})
    )


def _video(
    context: StepContext, *, well: str, images: dict[str, ImageEntry], rows: dict[tuple[str, int], dict[Any, Any]]
) -> VideoInfo:
    plate = rows.get((well, next(iter(images.values())).time_int), {})
    return nest_images(
        context.experiment,
        well=well,
        images=images,
        facts={image_id: _frame_info(rows.get((well, entry.time_int), {})) for image_id, entry in images.items()},
        plate={name: _plain(plate.get(name)) for name in (*PLATE_TEXTS, *PLATE_NUMBERS)},
        table=context.input("built_metadata").path,
    )


def _frame_info(row: dict[Any, Any]) -> dict[str, Any]:
    """One row of the frame table under both spellings; empty when the table has no such frame."""
    if not row:
        return {}
    info = {name: _plain(row[name]) for name in (*_ALIASES.values(), *_PLAIN)}
    return info | {alias: info[name] for alias, name in _ALIASES.items()}


def _plain(value: Any) -> Any:  # noqa: ANN401 - cells of any column
    """Turn a cell into a JSON value; every kind of null becomes None."""
    if value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value)):
        return None
    return value.item() if hasattr(value, "item") else value
