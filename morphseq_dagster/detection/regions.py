"""Operations on masks that detection and later rooms share, and the open water around bodies."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from morphseq_dagster.detection.work_image import MAD_TO_SIGMA, FloatImage, Mask, measure_gradient, measure_noise


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


def component_areas(mask: Mask) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Label 8-connected components.

    Returns
    -------
    labels
        `(H, W)` int32, 0 is background.
    areas
        Pixel count of component `i + 1` at index `i`.
    """
    count, labels, stats, _ = cv2.connectedComponentsWithStats(
        np.ascontiguousarray(mask).view(np.uint8), connectivity=8
    )
    areas = stats[1:count, cv2.CC_STAT_AREA].astype(np.int64)
    return np.asarray(labels, dtype=np.int32), areas


def largest_component(mask: Mask) -> Mask:
    """Keep the 8-connected component with most pixels; the first in reading order on a tie."""
    labels, areas = component_areas(mask)
    if areas.size <= 1:
        return mask.copy()
    return np.asarray(labels == int(np.argmax(areas)) + 1)


def drop_small(mask: Mask, *, area_px: float) -> Mask:
    """Remove components (8-neighbour) below an area; (h, w) bool."""
    labels, areas = component_areas(mask)
    return np.concatenate([[False], areas >= area_px])[labels]


def join_pieces(mask: Mask, *, piece_share: float, join_px: int) -> Mask:
    """Largest component together with sizeable ones close by, joined by a closing; (h, w) bool."""
    _, areas = component_areas(mask)
    least = piece_share * float(areas.max(initial=0))
    if np.count_nonzero(areas >= least) < 2:
        return largest_component(mask)
    pieces = drop_small(mask, area_px=least)
    return largest_component(change_shape(pieces, cv2.MORPH_CLOSE, join_px))


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


def level_water(
    picture: FloatImage, *, lit: Mask, close_px: int, shade_px: float, edge_floor: float, edge_sigma: float
) -> FloatImage:
    """Divide a picture by the brightness of the open water, carried on beneath what lies in it.

    The water is what neither shows an edge nor is enclosed by edges; its brightness is spread by a normalised
    Gaussian, wider where there is no water nearby.

    Parameters
    ----------
    lit
        (h, w) bool, what is neither well wall nor explained already.
    close_px
        Gaps in outlines up to this are closed; the same again is kept as a distance from them.
    shade_px
        Standard deviation of the Gaussian.
    edge_floor, edge_sigma
        Gradient that counts as an edge: at least the floor, and this many robust deviations above the median.

    Returns
    -------
    numpy.ndarray
        (h, w) float32, 1 on open water; `picture` itself when there is next to no water.
    """
    if not lit.any():
        return picture
    _, _, gradient = measure_gradient(picture)
    median, mad = measure_noise(gradient[lit])
    level = max(edge_floor, median + edge_sigma * (MAD_TO_SIGMA * mad))
    edges = apply_hysteresis(np.where(lit, gradient, 0).astype(np.float32), low=level, high=2 * level)
    closed = change_shape(edges, cv2.MORPH_CLOSE, close_px)
    body = change_shape(fill_outlines(closed), cv2.MORPH_DILATE, close_px)
    water = (lit & ~body).astype(np.float32)
    if float(water.mean()) < 0.05:
        return picture
    # A Gaussian this wide loses nothing at a quarter of the resolution.
    size = (max(2, picture.shape[1] // 4), max(2, picture.shape[0] // 4))
    weight = cv2.resize(water, size, interpolation=cv2.INTER_AREA)
    value = cv2.resize(water * picture, size, interpolation=cv2.INTER_AREA)
    shade = np.full(weight.shape, float(value.sum()) / max(float(weight.sum()), 1e-6), dtype=np.float32)
    known = np.zeros(weight.shape, dtype=np.bool_)
    for factor in (1.0, 2.0, 4.0):
        sigma = factor * shade_px / 4
        total = cv2.GaussianBlur(weight, (0, 0), sigma)
        mean = cv2.GaussianBlur(value, (0, 0), sigma) / np.maximum(total, 1e-6)
        new = ~known & (total > 0.05)
        shade[new] = mean[new]
        known |= new
    shade = np.asarray(cv2.GaussianBlur(shade, (0, 0), max(1.0, shade_px / 8)), dtype=np.float32)
    full = cv2.resize(shade, (picture.shape[1], picture.shape[0]), interpolation=cv2.INTER_LINEAR)
    return np.asarray(picture / np.maximum(full, 0.05), dtype=np.float32)
