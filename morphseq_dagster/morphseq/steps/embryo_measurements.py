"""Measurement of every embryo's pixels, well by well: shape, optics of the body, flags that need the mask.

This is the first half of `embryo_metadata.py`, where what needs an embryo's whole series is decided.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from morphseq_dagster.engine.contract.context import StepContext
from morphseq_dagster.engine.contract.wells import WellTask, map_wells
from morphseq_dagster.engine.storage.checkpoints import WellPayload
from morphseq_dagster.engine.storage.records import WellState
from morphseq_dagster.identifiers import parse_embryo
from morphseq_dagster.morphometry.shape import measure_shape
from morphseq_dagster.morphometry.viability import measure_optics
from morphseq_dagster.morphseq.contracts.exported_masks import ExportedMasks
from morphseq_dagster.morphseq.contracts.organized_frames import OrganizedFrames
from morphseq_dagster.morphseq.contracts.segmentations import EmbryoEntry, SegmentationDocument
from morphseq_dagster.morphseq.recipes import EmbryoMetadataRecipe
from morphseq_dagster.morphseq.steps.image_sets import FrameReader, read_picture
from morphseq_dagster.quality.embryo_flags import flag_embryo

_SHAPE = (
    "area_px", "perimeter_px", "centroid_x_px", "centroid_y_px", "area_um2", "perimeter_um", "centroid_x_um",
    "centroid_y_um", "length_um", "width_um", "solidity",
)  # fmt: skip
_MASK_FLAGS = ("frame_flag", "no_yolk_flag", "focus_flag", "bubble_flag")
_COLUMNS = (
    "snip_id", "mask_target", "mask_confidence", *_SHAPE, "body_transmission", "body_texture",
    *(column for flag in _MASK_FLAGS for column in (flag, f"{flag}_reason")),
)  # fmt: skip


@dataclass(frozen=True)
class Measurements:
    """One row per embryo and frame, the outcome per well, and how many wells were computed."""

    table: pd.DataFrame
    states: Mapping[str, WellState]
    computed: int


class _Inputs:
    """Frames, masks and embryos of the experiment by well."""

    def __init__(self, context: StepContext) -> None:
        self.context = context
        self.recipe = context.recipe(EmbryoMetadataRecipe)
        self.frames = context.document("organized_frames", OrganizedFrames)
        self.masks = context.document("exported_masks", ExportedMasks)
        segmented = context.document("sam2_segmentations", SegmentationDocument)
        self.videos = {
            video.well_id: video
            for video in segmented.experiments[context.experiment].videos.values()
            if video.sam2_success and video.well_id not in self.masks.failed_wells
        }

    def describe(self, image_id: str) -> list[Any]:
        """Name everything that the measurements of an image depend on."""
        entry = self.frames.images[image_id]
        mask = self.masks.files[self.masks.exports[image_id].output_path].sha256
        return [image_id, self.frames.files[entry.path].sha256, self.frames.polarity, entry.um_per_px, mask]


def measure_embryos(context: StepContext) -> Measurements:
    """Measure every mask of an experiment; `table.attrs["failed_wells"]` names wells without rows."""
    inputs = _Inputs(context)
    tasks = [
        WellTask(well, [inputs.describe(image_id) for image_id, image in video.image_ids.items() if image.embryos])
        for well, video in sorted(inputs.videos.items())
    ]
    # The published table is joined with the plate and rounded, hence nothing is taken back out of it.
    done = map_wells(
        context,
        tasks=tasks,
        compute=_measure_well,
        load=_Inputs,
        state=inputs,
        restore=lambda _: None,
        max_failed_share=inputs.recipe.max_failed_share,
    )
    rows = [row for payload in done.payloads.values() for row in payload.data["rows"]]
    table = pd.DataFrame(rows, columns=list(_COLUMNS))
    for flag in _MASK_FLAGS:
        table[flag] = table[flag].astype("boolean")
    table.attrs["failed_wells"] = tuple(w for w, state in done.states.items() if state.status == "failed")
    return Measurements(table, done.states, done.computed)


def _measure_well(task: WellTask, inputs: _Inputs) -> WellPayload:
    context, frames, masks = inputs.context, inputs.frames, inputs.masks
    rows = []
    for image_id, image in inputs.videos[task.well].image_ids.items():
        if not image.embryos:
            continue
        picture = FrameReader(context, frames, frames.images[image_id]).read()
        labels = read_picture(context, manifest=masks, path=masks.exports[image_id].output_path)
        scale = frames.images[image_id].um_per_px
        rows += [
            _measure(picture, labels, embryo=embryo, um_per_px=scale, recipe=inputs.recipe)
            for embryo in image.embryos.values()
        ]
    return WellPayload({"rows": rows}, {})


def _measure(
    picture: NDArray[np.uint8],
    labels: NDArray[np.uint8],
    *,
    embryo: EmbryoEntry,
    um_per_px: float | None,
    recipe: EmbryoMetadataRecipe,
) -> dict[str, Any]:
    mask = labels == parse_embryo(embryo.embryo_id)[2]
    shape = measure_shape(mask, um_per_px=um_per_px)
    optics = measure_optics(picture, mask=mask, um_per_px=um_per_px, settings=recipe.viability)
    flags = flag_embryo(mask, um_per_px=um_per_px, fraction_alive=None, settings=recipe.flags)
    row: dict[str, Any] = {
        "snip_id": embryo.snip_id,
        "mask_target": embryo.mask_target,
        "mask_confidence": embryo.mask_confidence,
        "body_transmission": optics.transmission,
        "body_texture": optics.texture,
    }
    row |= {name: getattr(shape, name) for name in _SHAPE}
    for name in _MASK_FLAGS:
        verdict = getattr(flags, name)
        row |= {name: verdict.value, f"{name}_reason": verdict.reason}
    return row
