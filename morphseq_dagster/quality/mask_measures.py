"""What the mask flags need to know of one frame, in a few numbers per mask.

The rules are in `mask_flags`, so that a well can be measured once, kept as JSON, and judged with its neighbours later.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from morphseq_dagster.detection.regions import component_areas
from morphseq_dagster.errors import PermanentError
from morphseq_dagster.morphometry.morphology import Box, occupied_box, require_mask

MaskSource = NDArray[np.bool_] | Callable[[], NDArray[np.bool_]]


class FrozenModel(BaseModel):
    """Base of what is kept as JSON."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class MaskMeasure(FrozenModel):
    """One mask of one frame.

    Attributes
    ----------
    box_px
        Half-open `(row0, col0, row1, col1)`; None for an empty mask.
    component_areas_px
        Pixels of each 8-connected piece, largest first.
    """

    embryo_id: str
    area_px: int
    box_px: tuple[int, int, int, int] | None
    component_areas_px: tuple[int, ...]


class MaskOverlap(FrozenModel):
    """Two masks of one frame that share pixels."""

    embryo_id1: str
    embryo_id2: str
    intersection_pixels: int
    union_pixels: int


class FrameMasks(FrozenModel):
    """All masks of one frame, measured.

    Attributes
    ----------
    masks
        Sorted by embryo id.
    overlaps
        Pairs that share at least one pixel, sorted.
    """

    video_id: str
    image_id: str
    time_int: int
    image_shape: tuple[int, int]
    masks: tuple[MaskMeasure, ...]
    overlaps: tuple[MaskOverlap, ...]


def measure_frame_masks(
    masks: Mapping[str, MaskSource],
    *,
    video_id: str,
    image_id: str,
    time_int: int,
    image_shape: tuple[int, int],
) -> FrameMasks:
    """Measure every mask of one frame; full-size masks are held one at a time.

    Parameters
    ----------
    masks
        Embryo id to `(H, W)` bool, or to a function that decodes it.

    Raises
    ------
    PermanentError
        For a mask of another shape or type.
    """
    measures: list[MaskMeasure] = []
    crops: dict[str, tuple[Box, NDArray[np.bool_]]] = {}
    for embryo_id in sorted(masks):
        source = masks[embryo_id]
        mask = source() if callable(source) else source
        require_mask(mask, where=f"mask of {embryo_id} in {image_id}")
        if mask.shape != tuple(image_shape):
            raise PermanentError(
                expected=f"a mask of the frame's shape {tuple(image_shape)}",
                found=f"shape {mask.shape}",
                where=f"mask of {embryo_id} in {image_id}",
                remedy="segment the frame again; the mask belongs to a picture of another size",
            )
        box = occupied_box(mask)
        if box is None:
            measures.append(MaskMeasure(embryo_id=embryo_id, area_px=0, box_px=None, component_areas_px=()))
            continue
        crop = np.ascontiguousarray(mask[box.slices])
        crops[embryo_id] = (box, crop)
        measures.append(
            MaskMeasure(
                embryo_id=embryo_id,
                area_px=int(np.count_nonzero(crop)),
                box_px=(box.row0, box.col0, box.row1, box.col1),
                component_areas_px=tuple(sorted((int(a) for a in component_areas(crop)[1]), reverse=True)),
            )
        )
    areas = {measure.embryo_id: measure.area_px for measure in measures}
    overlaps = []
    for first, second in combinations(sorted(crops), 2):
        shared = _shared_pixels(*crops[first], *crops[second])
        if shared:
            overlaps.append(
                MaskOverlap(
                    embryo_id1=first,
                    embryo_id2=second,
                    intersection_pixels=shared,
                    union_pixels=areas[first] + areas[second] - shared,
                )
            )
    return FrameMasks(
        video_id=video_id,
        image_id=image_id,
        time_int=time_int,
        image_shape=(int(image_shape[0]), int(image_shape[1])),
        masks=tuple(measures),
        overlaps=tuple(overlaps),
    )


def _shared_pixels(box1: Box, crop1: NDArray[np.bool_], box2: Box, crop2: NDArray[np.bool_]) -> int:
    row0, row1 = max(box1.row0, box2.row0), min(box1.row1, box2.row1)
    col0, col1 = max(box1.col0, box2.col0), min(box1.col1, box2.col1)
    if row0 >= row1 or col0 >= col1:
        return 0
    part1 = crop1[row0 - box1.row0 : row1 - box1.row0, col0 - box1.col0 : col1 - box1.col0]
    part2 = crop2[row0 - box2.row0 : row1 - box2.row0, col0 - box2.col0 : col1 - box2.col0]
    return int(np.count_nonzero(part1 & part2))
