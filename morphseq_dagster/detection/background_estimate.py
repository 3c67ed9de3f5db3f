"""Open water around bodies: its brightness, carried on beneath them.

Holds the levelling of slow shadows that a plane or a closing would take for a dark object.
"""

from __future__ import annotations

import cv2
import numpy as np

from morphseq_dagster.detection.regions import apply_hysteresis, change_shape, fill_outlines
from morphseq_dagster.detection.work_image import MAD_TO_SIGMA, FloatImage, Mask, measure_gradient


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
    median = float(np.median(gradient[lit]))
    spread = MAD_TO_SIGMA * float(np.median(np.abs(gradient[lit] - median)))
    level = max(edge_floor, median + edge_sigma * spread)
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
