"""The outline of one body in a cut-out: darkness and edges against a plain surrounding.

Where the domain comes from (inside of a chorion, open water) is decided in `cutout`.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from morphseq_dagster.detection.regions import (
    apply_hysteresis,
    change_shape,
    drop_small,
    ellipse_kernel,
    fill_outlines,
    join_pieces,
    largest_component,
    outline_of,
    smooth_outline,
)
from morphseq_dagster.detection.work_image import MAD_TO_SIGMA, FloatImage, Mask, measure_gradient, measure_noise
from morphseq_dagster.segmentation.parameters import ClassicalSegmenterSettings


@dataclass(frozen=True)
class Surrounding:
    """Level and noise of what surrounds a body.

    `level` is the fitted brightness (h, w) float32; the others are robust figures of the sampled pixels.
    """

    level: FloatImage
    brightness_sigma: float
    gradient_median: float
    gradient_sigma: float


@dataclass(frozen=True)
class Outline:
    """A mask in a cut-out, (h, w) bool.

    `edge` is the share of its outline that follows an edge, `complete` the share of the domain's darkness (depth
    below the surrounding, summed over dark pixels) that it covers.
    """

    mask: Mask
    edge: float
    complete: float


def to_px(length_um: float, um_per_px: float, *, least: int = 1) -> int:
    """Length in whole pixels, at least `least`."""
    return max(least, round(length_um / um_per_px))


def measure_surrounding(picture: FloatImage, gradient: FloatImage, sample: Mask) -> Surrounding:
    """Fit a plane to the brighter part of the sampled pixels and take robust deviations from it.

    The sample may hold parts of the body (a tail along the chorion): pixels more than 2.5 deviations from the
    plane are dropped three times over. The deviation is that of the pixels above the plane, because a body only
    darkens.
    """
    height, width = picture.shape
    rows, columns = np.nonzero(sample)
    step = max(1, len(rows) // 4000)
    rows, columns = rows[::step], columns[::step]
    if len(rows) < 20:
        median = float(np.median(gradient))
        level = np.full_like(picture, np.percentile(picture, 80))
        return Surrounding(level, 0.02, median, 0.01)
    values = picture[rows, columns].astype(np.float64)
    x, y = columns / width - 0.5, rows / height - 0.5
    keep = values >= np.percentile(values, 50)
    plane = (0.0, 0.0, 0.0)
    sigma = 0.01
    for _ in range(4):
        plane = _fit_plane(x[keep], y[keep], values[keep])
        residual = values - (plane[0] + plane[1] * x + plane[2] * y)
        above = residual[keep & (residual > 0)]
        sigma = max(MAD_TO_SIGMA * float(np.median(above)), 1e-4) if len(above) else sigma
        keep = np.abs(residual) < 2.5 * sigma
        if keep.sum() < 10:
            break
    grid_rows, grid_columns = np.ogrid[:height, :width]
    level = plane[0] + plane[1] * (grid_columns / width - 0.5) + plane[2] * (grid_rows / height - 0.5)
    median, mad = measure_noise(gradient[rows, columns][keep] if keep.any() else gradient[rows, columns])
    return Surrounding(np.asarray(level, dtype=np.float32), sigma, median, max(MAD_TO_SIGMA * mad, 1e-4))


def _fit_plane(
    x: NDArray[np.float64], y: NDArray[np.float64], values: NDArray[np.float64]
) -> tuple[float, float, float]:
    """Least squares of values = a + b x + c y about the means; a constant where the points span no plane.

    Sums of numpy, not of a linear algebra library: those change in the last digits with the number of threads.
    """
    dx, dy, dv = x - x.mean(), y - y.mean(), values - values.mean()
    xx, xy, yy = float(np.sum(dx * dx)), float(np.sum(dx * dy)), float(np.sum(dy * dy))
    xv, yv = float(np.sum(dx * dv)), float(np.sum(dy * dv))
    determinant = xx * yy - xy * xy
    if determinant <= 1e-9 * max(xx, yy) ** 2:
        return float(values.mean()), 0.0, 0.0
    b, c = (xv * yy - yv * xy) / determinant, (yv * xx - xv * xy) / determinant
    return float(values.mean() - b * x.mean() - c * y.mean()), b, c


def tighten(mask: Mask, depth: FloatImage, *, band_px: int, least_depth: float) -> Mask:
    """Move an outline to where the depth is half that of the nearby rim.

    Edges blur outward; half the depth of the rim is where a blurred straight edge stands. Pixels within the band
    where no rim is deep enough keep the coarse outline.
    """
    core = change_shape(mask, cv2.MORPH_ERODE, 2 * band_px + 1)
    rim = cv2.dilate(mask.astype(np.float32) * depth, ellipse_kernel(2 * band_px + 1))
    half = np.where(rim > least_depth, depth > 0.5 * rim, mask)
    return np.asarray(core | (mask & half), dtype=np.bool_)


def measure_edge_share(mask: Mask, gradient: FloatImage, *, level: float) -> float:
    """Share of an outline with a gradient above `level` within two pixels."""
    outline = outline_of(mask)
    if not outline.any():
        return 0.0
    strong = cv2.dilate((gradient > level).astype(np.uint8), ellipse_kernel(5)).astype(np.bool_)
    return float(strong[outline].mean())


def find_outline(
    picture: FloatImage,
    *,
    domain: Mask,
    sample: Mask,
    um_per_px: float,
    settings: ClassicalSegmenterSettings,
    prior: Mask | None = None,
) -> Outline | None:
    """Mask of the body within a domain; None when nothing stands out.

    Parameters
    ----------
    picture
        (h, w) float32, brightness over background.
    domain
        (h, w) bool, where the body may lie.
    sample
        (h, w) bool, where the surrounding is mostly seen.
    prior
        (h, w) bool or None, an earlier mask of the same body: the outline stays within `prior_margin_um` of it.
    """
    smooth = np.asarray(cv2.GaussianBlur(picture, (0, 0), 1.0), dtype=np.float32)
    _, _, gradient = measure_gradient(picture)
    around = measure_surrounding(smooth, gradient, sample)
    depth = np.asarray((around.level - smooth) / np.maximum(around.level, 0.05), dtype=np.float32)
    dark_level = max(settings.dark_floor, settings.dark_sigma * around.brightness_sigma)
    edge_level = max(settings.edge_floor, around.gradient_median + settings.edge_sigma * around.gradient_sigma)
    edges = apply_hysteresis(np.where(domain, gradient, 0).astype(np.float32), low=edge_level, high=2 * edge_level)
    marked = edges | (domain & (depth > dark_level))
    speck = to_px(settings.speck_um, um_per_px)
    marked = drop_small(marked, area_px=0.785 * speck**2)
    marked = change_shape(marked, cv2.MORPH_CLOSE, to_px(settings.close_um, um_per_px, least=3)) & domain
    plain = (np.abs(depth) < max(settings.plain_depth, 2 * around.brightness_sigma)) & (
        cv2.blur(gradient, (5, 5)) < around.gradient_median + 1.5 * around.gradient_sigma
    )
    large_px = settings.yolk_area_max_um2 / um_per_px**2
    filled = fill_outlines(marked, plain=plain, large_px=large_px)
    if prior is not None:
        reach = 2 * to_px(settings.prior_margin_um, um_per_px) + 1
        filled = filled & change_shape(prior, cv2.MORPH_DILATE, reach) | change_shape(prior, cv2.MORPH_ERODE, reach)
    opened = join_pieces(
        change_shape(filled, cv2.MORPH_OPEN, to_px(settings.open_um, um_per_px, least=3)),
        piece_share=settings.piece_share,
        join_px=to_px(settings.join_um, um_per_px, least=3),
    )
    if not opened.any():
        return None
    band = to_px(settings.band_um, um_per_px, least=2)
    tight = tighten(opened, depth, band_px=band, least_depth=2 * dark_level)
    tight = change_shape(tight, cv2.MORPH_OPEN, to_px(settings.prune_um, um_per_px, least=3))
    body = largest_component(
        fill_outlines(smooth_outline(tight, sigma_px=settings.smooth_um / um_per_px), plain=plain, large_px=large_px)
    )
    if not body.any():
        return None
    dark = drop_small(domain & (depth > dark_level), area_px=0.785 * speck**2)
    covered = dark & cv2.dilate(body.astype(np.uint8), ellipse_kernel(2 * band + 1)).astype(np.bool_)
    calm_level = around.gradient_median + 3 * around.gradient_sigma
    return Outline(
        body,
        edge=measure_edge_share(body, gradient, level=min(edge_level, calm_level)),
        complete=float(depth[covered].sum()) / max(1e-6, float(depth[dark].sum())),
    )
