"""Which way an embryo lies: the rotation that puts its long axis upright with the head side on top (spec 5.5 step 6).

Embryos are only rotated, never mirrored: upstream transposes landscape pictures, which mirrors them (spec 5.5 step 4),
so that left and right of an embryo would depend on the camera.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from morphseq_dagster.detection.regions import component_areas
from morphseq_dagster.errors import PermanentError
from morphseq_dagster.morphometry.morphology import require_mask, require_same_shape
from morphseq_dagster.morphometry.shape import principal_angle

HeadRule = Literal["yolk", "mass"]


@dataclass(frozen=True)
class Orientation:
    """Rotation of an embryo into the upright frame.

    A picture point `(row, col)` has the upright coordinates
    `down = (row - row0) cos(a) + (col - col0) sin(a)` and
    `right = (col - col0) cos(a) - (row - row0) sin(a)`, in pixels of the picture, with
    `(row0, col0)` the mask's centroid and `a = angle_rad` in (-pi, pi].

    Attributes
    ----------
    head_rule
        "yolk": the side of the yolk is up; "mass": no usable yolk mask, the side nearer to the
        centroid is up.
    has_axis
        False for a mask without a direction (a disk); then the angle comes from the head rule alone.
    """

    angle_rad: float
    row0: float
    col0: float
    head_rule: HeadRule
    has_axis: bool

    def upright(
        self, rows: NDArray[np.float64], cols: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Turn picture coordinates `(N,)` into upright coordinates (down, right) around the centroid."""
        cos, sin = math.cos(self.angle_rad), math.sin(self.angle_rad)
        r, c = rows - self.row0, cols - self.col0
        return r * cos + c * sin, c * cos - r * sin


def pick_yolk(
    yolk: NDArray[np.bool_] | None, *, mask: NDArray[np.bool_], contact_min_px: int = 10
) -> NDArray[np.bool_] | None:
    """Choose the yolk piece that belongs to an embryo (spec 5.5 step 3).

    Of all yolks `(H, W)` bool in the picture it is the 8-connected piece that shares most pixels with the embryo's
    mask; None when fewer than `contact_min_px` are shared.
    """
    if yolk is None:
        return None
    require_same_shape(mask, yolk, name="yolk")
    if int(np.count_nonzero(yolk & mask)) < contact_min_px:
        return None
    labels, areas = component_areas(yolk)
    contact = np.bincount(labels[mask], minlength=areas.size + 1)[1:]
    return np.asarray(labels == int(np.argmax(contact)) + 1)


def orient(mask: NDArray[np.bool_], *, yolk: NDArray[np.bool_] | None = None) -> Orientation:
    """Find the rotation that makes the long axis vertical and puts the head side on top.

    With a yolk (see `pick_yolk`): turned by 180 degrees when the embryo's centroid lies above the yolk's. Without:
    turned when fewer than half of the occupied rows lie below the centroid (spec 5.5 step 6).

    Raises
    ------
    PermanentError
        For an empty mask.
    """
    require_mask(mask, where="orientation")
    rows, cols = np.nonzero(mask)
    if rows.size == 0:
        raise PermanentError(
            expected="at least one mask pixel",
            found="an empty mask",
            where="orientation",
            remedy="skip embryos with an empty mask",
        )
    axis = principal_angle(rows, cols)
    rule: HeadRule = "mass" if yolk is None or not yolk.any() else "yolk"
    upright = Orientation(axis or 0.0, float(rows.mean()), float(cols.mean()), rule, axis is not None)
    if rule == "yolk" and yolk is not None:
        yolk_rows, yolk_cols = np.nonzero(yolk)
        down, _ = upright.upright(yolk_rows.astype(np.float64), yolk_cols.astype(np.float64))
        keep = bool(down.mean() <= 0.0)
    else:
        down, _ = upright.upright(rows.astype(np.float64), cols.astype(np.float64))
        occupied = np.unique(np.rint(down))
        # The centroid's own row counts for neither side, so that a symmetric mask is not turned.
        keep = bool(np.count_nonzero(occupied > 0) >= np.count_nonzero(occupied < 0))
    if keep:
        return upright
    turned = upright.angle_rad + (math.pi if upright.angle_rad <= 0 else -math.pi)
    return Orientation(turned, upright.row0, upright.col0, rule, upright.has_axis)
