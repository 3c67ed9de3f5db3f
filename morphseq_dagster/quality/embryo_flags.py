"""Flags of one embryo in one frame: frame, no-yolk, focus, bubble, dead (spec 5.2).

Distances are Euclidean, on the part of the frame within reach of the embryo; for death over time see `death`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from morphseq_dagster.morphometry.morphology import occupied_box, require_mask, require_same_shape
from morphseq_dagster.morphometry.shape import check_pixel_size
from morphseq_dagster.quality.parameters import EmbryoFlagSettings
from morphseq_dagster.quality.tri_state import TriStateFlag, unknown

DEFAULT_EMBRYO_FLAGS = EmbryoFlagSettings()


@dataclass(frozen=True, eq=False)
class AuxiliaryMasks:
    """Masks `(H, W)` bool of the frame from the QC models; None = not available, which is not the same as empty."""

    yolk: NDArray[np.bool_] | None = None
    focus: NDArray[np.bool_] | None = None
    bubble: NDArray[np.bool_] | None = None


NO_AUXILIARY = AuxiliaryMasks()


@dataclass(frozen=True)
class EmbryoFlags:
    """The five verdicts."""

    frame_flag: TriStateFlag
    no_yolk_flag: TriStateFlag
    focus_flag: TriStateFlag
    bubble_flag: TriStateFlag
    dead_flag: TriStateFlag


def flag_embryo(
    mask: NDArray[np.bool_],
    *,
    um_per_px: float | None,
    fraction_alive: float | None,
    auxiliary: AuxiliaryMasks = NO_AUXILIARY,
    settings: EmbryoFlagSettings = DEFAULT_EMBRYO_FLAGS,
) -> EmbryoFlags:
    """Judge one embryo in one frame.

    Parameters
    ----------
    mask
        `(H, W)` bool.
    um_per_px
        Pixel size; None makes every distance, hence three flags, unknown (upstream assumes 1 um).
    fraction_alive
        0..1; None or NaN = unknown.

    Raises
    ------
    PermanentError
        For arrays of the wrong type or shape.
    """
    require_mask(mask, where="embryo flags")
    check_pixel_size(um_per_px)
    if mask.any():
        border = None if um_per_px is None else math.ceil(settings.border_um / um_per_px - 1e-9)
        frame = _frame_flag(mask, border_px=border, settings=settings)
        no_yolk = _no_yolk_flag(mask, yolk=auxiliary.yolk)
        reach = None if border is None else settings.reach_borders * border
        focus = _near_flag(mask, other=auxiliary.focus, reach_px=reach, name="focus")
        bubble = _near_flag(mask, other=auxiliary.bubble, reach_px=reach, name="bubble")
    else:
        frame = no_yolk = focus = bubble = unknown("empty mask")
    return EmbryoFlags(frame, no_yolk, focus, bubble, judge_dead(fraction_alive, settings=settings))


def judge_dead(fraction_alive: float | None, *, settings: EmbryoFlagSettings = DEFAULT_EMBRYO_FLAGS) -> TriStateFlag:
    """`dead_flag`: the fraction alive is below the limit; unknown without a fraction (upstream: False)."""
    if fraction_alive is None or math.isnan(fraction_alive):
        return unknown("viability not measured")
    return TriStateFlag(fraction_alive < settings.dead_below)


def _frame_flag(mask: NDArray[np.bool_], *, border_px: int | None, settings: EmbryoFlagSettings) -> TriStateFlag:
    if border_px is None:
        return unknown("unknown pixel size")
    height, width = mask.shape
    if min(height, width) <= 2 * border_px:
        return unknown("frame smaller than its border strip")
    inner = np.count_nonzero(mask[border_px : height - border_px, border_px : width - border_px])
    return TriStateFlag(bool(inner <= settings.inner_share_min * np.count_nonzero(mask)))


def _no_yolk_flag(mask: NDArray[np.bool_], *, yolk: NDArray[np.bool_] | None) -> TriStateFlag:
    if yolk is None:
        return unknown("no yolk mask")
    require_same_shape(mask, yolk, name="yolk")
    return TriStateFlag(not bool((mask & yolk).any()))


def _near_flag(
    mask: NDArray[np.bool_], *, other: NDArray[np.bool_] | None, reach_px: float | None, name: str
) -> TriStateFlag:
    if other is None:
        return unknown(f"no {name} mask")
    require_same_shape(mask, other, name=name)
    if reach_px is None:
        return unknown("unknown pixel size")
    box = occupied_box(mask)
    if box is None:
        return unknown("empty mask")
    pad = math.ceil(reach_px) + 1
    near = (
        slice(max(box.row0 - pad, 0), box.row1 + pad),
        slice(max(box.col0 - pad, 0), box.col1 + pad),
    )
    candidates = other[near]
    if not candidates.any():
        return TriStateFlag(False)
    outside = np.ascontiguousarray(~mask[near]).view(np.uint8)
    distance = cv2.distanceTransform(outside, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return TriStateFlag(bool(distance[candidates].min() <= reach_px + 1e-3))
