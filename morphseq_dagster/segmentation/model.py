"""What a segmenter is and what it returns, and the boxes of masks; `backends` lists the implementations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from morphseq_dagster.backends import BackendIdentity
from morphseq_dagster.detection.backends import Box, Detection
from morphseq_dagster.segmentation.rle import Rle, decode

MaskTarget = Literal["body", "chorion"]
"""What a mask covers: the embryo's body, or its chorion where only that could be found."""


class FrameSource(Protocol):
    """A frame that is read when it is needed: a well may have more frames than fit into memory."""

    def read(self) -> NDArray[np.uint8]:
        """Return the (H, W) uint8 picture on a bright background."""
        ...


@dataclass(frozen=True)
class TrackedMask:
    """One embryo in one frame.

    Attributes
    ----------
    embryo_number
        From 1, by falling confidence in the seed frame (spec 3.2).
    box_xyxy
        Box of the mask, normalised, inclusive maxima (spec 3.3).
    confidence
        0 to 1: share of the outline that follows an edge.
    """

    embryo_number: int
    rle: Rle
    box_xyxy: Box
    area_px: int
    mask_target: MaskTarget
    confidence: float

    def mask(self) -> NDArray[np.bool_]:
        """Decode the mask: (H, W) bool."""
        return decode(self.rle)


@dataclass(frozen=True)
class WellTracks:
    """Embryos of one well through time.

    Attributes
    ----------
    seed_index
        Index of the seed frame; None when no frame of the well has a detection.
    num_embryos
        Number of embryos, fixed by the seed frame.
    frames
        Per frame its masks by embryo number; an embryo that was not found in a frame is absent from it and
        keeps its number when it is found again.
    """

    seed_index: int | None
    bidirectional: bool
    num_embryos: int
    frames: tuple[tuple[TrackedMask, ...], ...]


class Segmenter(Protocol):
    """Outlines and follows the embryos of one well."""

    def segment(
        self,
        frames: Sequence[FrameSource],
        *,
        detections: Sequence[Sequence[Detection]],
        um_per_px: float | None,
    ) -> WellTracks:
        """Segment one well: frames of one size in time order, with the filtered detections of each.

        The pixel size is None when it is unknown.
        """
        ...

    def identity(self) -> BackendIdentity:
        """Name, version and weights, for the provenance record."""
        ...


Mask = NDArray[np.bool_]


def measure_mask_box(mask: Mask, *, top: int = 0, left: int = 0, size: tuple[int, int] | None = None) -> Box:
    """Normalised box x_min/W, y_min/H, x_max/W, y_max/H with inclusive maxima; zeros for an empty mask.

    Inclusive maxima make the box of a single pixel have no width: it spans pixel indices, not pixel areas
    (spec 3.3). A mask that is a part of the frame lies at (top, left) of a frame of `size` (H, W).
    """
    height, width = size or mask.shape
    columns, rows = np.flatnonzero(mask.any(axis=0)) + left, np.flatnonzero(mask.any(axis=1)) + top
    if len(columns) == 0:
        return 0.0, 0.0, 0.0, 0.0
    return (
        float(columns[0] / width),
        float(rows[0] / height),
        float(columns[-1] / width),
        float(rows[-1] / height),
    )


def scale_box(box: Box, shape: tuple[int, int]) -> Box:
    """Normalised box to frame pixels."""
    height, width = shape
    return box[0] * width, box[1] * height, box[2] * width, box[3] * height
