"""Typed instances of the mask flags, with the fields that upstream's QC section has (spec 3.4).

Author and time stamp are not part of an instance: equal masks give equal bytes.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

SNIP_FLAG_ORDER = (
    "HIGH_SEGMENTATION_VAR_SNIP",
    "MASK_ON_EDGE",
    "LARGE_MASK",
    "SMALL_MASK",
    "DISCONTINUOUS_MASK",
    "EMPTY_MASK",
)
"""Order of the names in `sam2_qc_flags`: upstream's five, then ours. Image flags are not carried there."""

IMAGE_FLAG_ORDER = ("OVERLAPPING_MASKS", "DETECTION_FAILURE", "MISSING_FRAME")


class _Instance(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    image_id: str
    video_id: str


class _SnipInstance(_Instance):
    snip_id: str
    embryo_id: str


class TouchedEdges(BaseModel):
    """Which borders of the frame a mask touches."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    top: bool
    bottom: bool
    left: bool
    right: bool


class HighVariance(_SnipInstance):
    """The area jumps against the neighbouring frames; differences are shares, not per cent."""

    flag: Literal["HIGH_SEGMENTATION_VAR_SNIP"] = "HIGH_SEGMENTATION_VAR_SNIP"
    current_area: int
    avg_before: float | None
    avg_after: float | None
    diff_before_pct: float | None
    diff_after_pct: float | None
    flagged_before: bool
    flagged_after: bool
    frames_checked_before: int
    frames_checked_after: int


class MaskOnEdge(_SnipInstance):
    """The mask touches the border of the frame."""

    flag: Literal["MASK_ON_EDGE"] = "MASK_ON_EDGE"
    touches_edges: TouchedEdges
    margin_pixels: int
    image_shape: tuple[int, int]


class _SizeInstance(_SnipInstance):
    mask_area: int
    total_area: int
    area_percentage: float
    threshold_used: float
    image_shape: tuple[int, int]


class LargeMask(_SizeInstance):
    """The mask covers too much of the frame."""

    flag: Literal["LARGE_MASK"] = "LARGE_MASK"


class SmallMask(_SizeInstance):
    """The mask covers too little of the frame."""

    flag: Literal["SMALL_MASK"] = "SMALL_MASK"


class DiscontinuousMask(_SnipInstance):
    """The mask has several pieces."""

    flag: Literal["DISCONTINUOUS_MASK"] = "DISCONTINUOUS_MASK"
    num_components: int
    component_areas: tuple[int, ...]
    total_area: int
    largest_component_area: int
    smallest_component_area: int


class EmptyMask(_SnipInstance):
    """The embryo is listed in the frame without a single pixel."""

    flag: Literal["EMPTY_MASK"] = "EMPTY_MASK"


class OverlappingMasks(_Instance):
    """Two embryos claim the same pixels."""

    flag: Literal["OVERLAPPING_MASKS"] = "OVERLAPPING_MASKS"
    embryo_id1: str
    embryo_id2: str
    snip_id1: str
    snip_id2: str
    iou: float
    intersection_pixels: int
    union_pixels: int
    threshold_used: float


class DetectionFailure(_Instance):
    """The frame shows fewer embryos than expected."""

    flag: Literal["DETECTION_FAILURE"] = "DETECTION_FAILURE"
    embryo_count: int
    expected_min: int


class MissingFrame(_Instance):
    """The acquisition holds the frame, the segmentation does not."""

    flag: Literal["MISSING_FRAME"] = "MISSING_FRAME"


SnipFlag = HighVariance | MaskOnEdge | LargeMask | SmallMask | DiscontinuousMask | EmptyMask
ImageFlag = OverlappingMasks | DetectionFailure | MissingFrame
