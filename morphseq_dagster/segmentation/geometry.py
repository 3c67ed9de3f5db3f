"""Boxes and overlaps of masks (spec 3.3).

Holds the measures that documents store. Does not hold shape measures of embryos (morphometry room).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]
Box = tuple[float, float, float, float]


def measure_mask_box(mask: Mask) -> Box:
    """Normalised box x_min/W, y_min/H, x_max/W, y_max/H with inclusive maxima; zeros for an empty mask.

    Inclusive maxima make the box of a single pixel have no width: it spans pixel indices, not pixel areas
    (spec 3.3).
    """
    height, width = mask.shape
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    if len(columns) == 0:
        return 0.0, 0.0, 0.0, 0.0
    return (
        float(columns[0] / width),
        float(rows[0] / height),
        float(columns[-1] / width),
        float(rows[-1] / height),
    )


def measure_mask_iou(a: Mask, b: Mask) -> float:
    """Intersection over union of two (H, W) masks; 0 when both are empty."""
    union = int(np.count_nonzero(a | b))
    return int(np.count_nonzero(a & b)) / union if union else 0.0
