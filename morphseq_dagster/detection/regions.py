"""Operations on masks that detection and later rooms share; no threshold stands here."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from morphseq_dagster.detection.work_image import FloatImage, Mask


def apply_hysteresis(values: FloatImage, *, low: float, high: float) -> Mask:
    """Pixels above `low` in regions (8-neighbour) that reach `high`; (h, w) bool."""
    above = (values > low).astype(np.uint8)
    count, labels = cv2.connectedComponents(above, connectivity=8)
    reached = np.zeros(count, dtype=np.bool_)
    reached[np.unique(labels[values > high])] = True
    reached[0] = False
    return np.asarray(reached[labels], dtype=np.bool_)


def fill_outlines(mask: Mask, *, plain: Mask | None = None, large_px: float = np.inf) -> Mask:
    """Fill what a mask encloses, except holes that look like background.

    Parameters
    ----------
    plain
        (h, w) bool, pixels as bright and smooth as the background. A hole stays open when nine tenths of it are
        plain, a large one already when half of it is: a yolk's clear middle is somewhat textured, and no yolk
        is larger than `large_px` pixels. Without it all holes are filled; (h, w) bool.
    """
    holes = cv2.copyMakeBorder((~mask).astype(np.uint8), 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=1)
    # The margin joins all outside regions into one component, which holds the first pixel.
    count, labels = cv2.connectedComponents(holes, connectivity=4)
    fill = np.ones(count, dtype=np.bool_)
    fill[labels[0, 0]] = False
    labels = labels[1:-1, 1:-1]
    if plain is not None and count > 2:
        size = np.maximum(np.bincount(labels.ravel(), minlength=count), 1)
        share = np.bincount(labels[plain], minlength=count) / size
        open_hole = (share > 0.9) | ((share > 0.5) & (size > large_px))
        open_hole[0] = False
        fill &= ~open_hole
    return np.asarray(fill[labels], dtype=np.bool_)


def ellipse_kernel(diameter: int) -> NDArray[np.uint8]:
    """Elliptic structuring element of odd diameter."""
    odd = max(1, diameter | 1)
    return np.asarray(cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (odd, odd)), dtype=np.uint8)


def drop_small(mask: Mask, *, area_px: float) -> Mask:
    """Remove components (8-neighbour) below an area; (h, w) bool."""
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    keep = np.zeros(count, dtype=np.bool_)
    keep[1:] = stats[1:, cv2.CC_STAT_AREA] >= area_px
    return np.asarray(keep[labels], dtype=np.bool_)


def keep_largest(mask: Mask) -> Mask:
    """Largest component (8-neighbour); (h, w) bool, empty stays empty."""
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    if count < 2:
        return mask
    return np.asarray(labels == 1 + int(np.argmax(stats[1:, cv2.CC_STAT_AREA])), dtype=np.bool_)


def join_pieces(mask: Mask, *, piece_share: float, join_px: int) -> Mask:
    """Largest component together with sizeable ones close by, joined by a closing; (h, w) bool."""
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    if count < 3:
        return mask
    areas = stats[:, cv2.CC_STAT_AREA].astype(np.float64)
    areas[0] = 0
    keep = areas >= piece_share * areas.max()
    keep[0] = False
    if keep.sum() == 1:
        return keep_largest(mask)
    pieces = np.asarray(keep[labels], dtype=np.bool_)
    return keep_largest(change_shape(pieces, cv2.MORPH_CLOSE, join_px))


def change_shape(mask: Mask, operation: int, diameter_px: int) -> Mask:
    """Morphology with an ellipse; what lies outside the cut-out counts as what its border shows."""
    pad = diameter_px + 1
    padded = cv2.copyMakeBorder(mask.astype(np.uint8), pad, pad, pad, pad, cv2.BORDER_REPLICATE)
    changed = cv2.morphologyEx(padded, operation, ellipse_kernel(diameter_px))
    return np.asarray(changed[pad:-pad, pad:-pad], dtype=np.bool_)


def smooth_outline(mask: Mask, *, sigma_px: float) -> Mask:
    """Gaussian smoothing of an outline at half height; (h, w) bool."""
    soft = cv2.GaussianBlur(mask.astype(np.float32), (0, 0), sigma_px, borderType=cv2.BORDER_REPLICATE)
    return np.asarray(soft > 0.5, dtype=np.bool_)


def outline_of(mask: Mask) -> Mask:
    """Pixels of a mask beside its outside; the cut-out's border does not count as outside."""
    inner = cv2.erode(mask.astype(np.uint8), np.ones((3, 3), np.uint8), borderType=cv2.BORDER_CONSTANT, borderValue=1)
    return mask & ~inner.astype(np.bool_)
