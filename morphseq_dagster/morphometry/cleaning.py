"""Five-step cleaning of an embryo mask before snips and body axes (spec 5.6).

Areas and flags are measured on the mask as segmented, as upstream does.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from morphseq_dagster.detection.regions import component_areas, drop_small, fill_outlines, largest_component
from morphseq_dagster.morphometry.morphology import (
    closing,
    occupied_box,
    opening,
    outer_contours,
    require_mask,
    solidity,
)
from morphseq_dagster.morphometry.parameters import CleaningSettings

DEFAULT_CLEANING = CleaningSettings()


@dataclass(frozen=True, eq=False)
class CleanedMask:
    """A cleaned mask and what happened to it.

    Attributes
    ----------
    mask
        `(H, W)` bool, one component without holes; the input itself, copied, when `problem` is set.
    actions
        Steps that changed pixels, in order.
    problem
        Why no cleaned mask could be made ("empty mask", "opening removed everything"), else None.
    """

    mask: NDArray[np.bool_]
    actions: tuple[str, ...]
    problem: str | None


def clean_mask(mask: NDArray[np.bool_], *, settings: CleaningSettings = DEFAULT_CLEANING) -> CleanedMask:
    """Reduce a segmented mask `(H, W)` bool to one solid component; what prevents that is its `problem`."""
    require_mask(mask, where="mask cleaning")
    box = occupied_box(mask)
    if box is None:
        return CleanedMask(mask.copy(), (), "empty mask")
    # A closing may not grow a mask past its convex hull, so its own box plus one pixel holds every result.
    work = np.pad(mask[box.slices], 1)
    actions: list[str] = []

    work = _note(actions, "small components dropped", work, _drop_small(work, settings=settings))
    perimeter_px = _outline_length(work)
    work = _note(actions, "components joined", work, _join(work, perimeter_px=perimeter_px, settings=settings))
    work = _note(actions, "holes filled", work, fill_outlines(work))
    if solidity(work) < settings.opening_below_solidity:
        radius = max(settings.opening_radius_min_px, int(_outline_length(work) / settings.opening_perimeter_divisor))
        opened = opening(work, radius_px=radius)
        if not opened.any():
            problem = f"opening with radius {radius} px removed the whole mask"
            return CleanedMask(mask.copy(), tuple(actions), problem)
        work = _note(actions, f"opened with radius {radius} px", work, opened)
    work = _note(actions, "largest component kept", work, largest_component(work))
    whole = np.zeros(mask.shape, dtype=np.bool_)
    whole[box.slices] = work[1:-1, 1:-1]
    return CleanedMask(whole, tuple(actions), None)


def _note(actions: list[str], name: str, before: NDArray[np.bool_], after: NDArray[np.bool_]) -> NDArray[np.bool_]:
    if not np.array_equal(before, after):
        actions.append(name)
    return after


def _drop_small(mask: NDArray[np.bool_], *, settings: CleaningSettings) -> NDArray[np.bool_]:
    kept = drop_small(mask, area_px=settings.small_component_share * float(np.count_nonzero(mask)))
    return kept if kept.any() else largest_component(mask)


def _join(mask: NDArray[np.bool_], *, perimeter_px: float, settings: CleaningSettings) -> NDArray[np.bool_]:
    radius = max(settings.closing_radius_min_px, int(perimeter_px / settings.closing_perimeter_divisor))
    work = mask
    for _ in range(settings.closing_rounds):
        if component_areas(work)[1].size <= 1:
            return work
        work = closing(work, radius_px=min(radius, settings.closing_radius_max_px))
        radius += settings.closing_step_px
    return work


def _outline_length(mask: NDArray[np.bool_]) -> float:
    return float(sum(cv2.arcLength(contour, True) for contour in outer_contours(mask)))
