"""Boxes of masks as the documents store them (spec 3.3); shape measures of embryos are `morphometry.shape`."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from morphseq_dagster.detection.model import Box

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
