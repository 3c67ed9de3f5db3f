"""Size, outline and extent of one embryo mask, in pixels and, where the pixel size is known, in micrometres.

Nothing is rounded here: the table contract does it (spec 5.3: pixels to 2, micrometres to 4 decimals).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from morphseq_dagster.errors import PermanentError
from morphseq_dagster.morphometry.morphology import occupied_box, outer_contours, require_mask, solidity


@dataclass(frozen=True)
class EmbryoShape:
    """Measurements of one mask; None where a value cannot be known.

    Attributes
    ----------
    perimeter_px
        Closed arc length of the outer contour that encloses most area (spec 5.2), px.
    centroid_x_px, centroid_y_px
        Mean column and row (image moments m10/m00, m01/m00), pixel centres at whole numbers.
    length_px, width_px
        Extents (max - min) of the pixel centres along the first and second principal axis (spec 5.2).
    solidity
        Share of the convex hull covered, (0, 1].
    um_per_px
        Pixel size used; None = unknown, then every `_um` value is None.
    """

    area_px: int
    perimeter_px: float | None = None
    centroid_x_px: float | None = None
    centroid_y_px: float | None = None
    length_px: float | None = None
    width_px: float | None = None
    solidity: float | None = None
    um_per_px: float | None = None
    area_um2: float | None = None
    perimeter_um: float | None = None
    length_um: float | None = None
    width_um: float | None = None
    centroid_x_um: float | None = None
    centroid_y_um: float | None = None
    problem: str | None = None


def measure_shape(mask: NDArray[np.bool_], *, um_per_px: float | None) -> EmbryoShape:
    """Measure one embryo mask `(H, W)` bool on its occupied box; unrounded.

    The pixels are square; their size is None when it is unknown.

    Raises
    ------
    PermanentError
        For anything but an `(H, W)` bool array or a pixel size that is not positive and finite.
    """
    require_mask(mask, where="shape measurement")
    check_pixel_size(um_per_px)
    box = occupied_box(mask)
    if box is None:
        return EmbryoShape(area_px=0, um_per_px=um_per_px, problem="empty mask")
    crop = np.ascontiguousarray(mask[box.slices])
    rows, cols = np.nonzero(crop)
    area = int(rows.size)
    y, x = float(rows.mean()) + box.row0, float(cols.mean()) + box.col0
    perimeter = float(cv2.arcLength(max(outer_contours(crop), key=cv2.contourArea), True))
    length, width = principal_extents(rows, cols)

    def um(pixels: float) -> float | None:
        return None if um_per_px is None else pixels * um_per_px

    return EmbryoShape(
        area_px=area,
        perimeter_px=perimeter,
        centroid_x_px=x,
        centroid_y_px=y,
        length_px=length,
        width_px=width,
        solidity=solidity(crop),
        um_per_px=um_per_px,
        area_um2=None if um_per_px is None else area * um_per_px**2,
        perimeter_um=um(perimeter),
        length_um=um(length),
        width_um=um(width),
        centroid_x_um=um(x),
        centroid_y_um=um(y),
        problem=None,
    )


def check_pixel_size(um_per_px: float | None) -> None:
    """Refuse a pixel size that is zero, negative or not finite; None (unknown) passes.

    Raises
    ------
    PermanentError
        Upstream takes 1 um/px instead and measures silently wrong (spec 5.2).
    """
    if um_per_px is not None and not (math.isfinite(um_per_px) and um_per_px > 0):
        raise PermanentError(
            expected="a positive pixel size in um, or None when it is unknown",
            found=repr(um_per_px),
            where="pixel size of the frame",
            remedy="correct `um_per_px`, or leave it blank",
        )


def principal_angle(rows: NDArray[np.int64], cols: NDArray[np.int64]) -> float | None:
    """Angle of the axis of largest spread against the row axis, towards columns, radians in (-pi/2, pi/2].

    None when the spread is equal in all directions (a disk, a square, a single pixel), where any answer would be
    rounding noise.
    """
    # Whole numbers keep the sums exact, whatever library or thread count adds them up.
    count, r, c = rows.size, int(rows.sum()), int(cols.sum())
    rr = float(count * int((rows * rows).sum()) - r * r) / count
    cc = float(count * int((cols * cols).sum()) - c * c) / count
    rc = float(count * int((rows * cols).sum()) - r * c) / count
    if math.hypot(rr - cc, 2.0 * rc) <= 1e-9 * max(rr + cc, 1.0):
        return None
    angle = 0.5 * math.atan2(2.0 * rc, rr - cc)
    return math.pi / 2 if angle <= -math.pi / 2 else angle


def principal_extents(rows: NDArray[np.int64], cols: NDArray[np.int64]) -> tuple[float, float]:
    """Extents (max - min) of pixel centres along the first and second principal axis, px (spec 5.2).

    A mask without a direction is measured along rows and columns.
    """
    angle = principal_angle(rows, cols) or 0.0
    along = rows * math.cos(angle) + cols * math.sin(angle)
    across = cols * math.cos(angle) - rows * math.sin(angle)
    return float(np.ptp(along)), float(np.ptp(across))
