"""The work picture: one frame at about 12 um per pixel, with its light evened out and its noise known."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt

from morphseq_dagster.errors import PermanentError

GreyImage = NDArray[np.uint8]
FloatImage = NDArray[np.float32]
Mask = NDArray[np.bool_]

MAD_TO_SIGMA = 1.4826
"""Factor from the median absolute deviation to the standard deviation of a normal distribution."""

THUMBNAIL_UM_PER_PX = 64.0
"""Pixel size of the copy on which the background is found: 25 px of closing are then 1.6 mm, more than a chorion
and more than a body is thick, so neither counts as background."""


@dataclass(frozen=True)
class WorkPicture:
    """A frame prepared for looking for embryos.

    Attributes
    ----------
    flat
        (h, w) float32, brightness divided by the local background: 1 is background, embryos lie below.
    background
        (h, w) float32, the local background in grey levels.
    gradient_x, gradient_y, gradient
        (h, w) float32, Scharr gradient of `flat` per work pixel along columns and rows, and its magnitude,
        smoothed with sigma 1 px.
    gradient_median, gradient_mad
        Median and median absolute deviation of `gradient` over the lit field: its noise scale.
    lit
        (h, w) bool, the part of the frame that light reaches; False on a dark well edge and just beside it.
    scale_x, scale_y
        Frame pixels per work pixel along columns and rows.
    um_per_px
        Micrometres per *work* pixel, None when the pixel size is unknown.
    """

    flat: FloatImage
    background: FloatImage
    gradient_x: FloatImage
    gradient_y: FloatImage
    gradient: FloatImage
    gradient_median: float
    gradient_mad: float
    lit: Mask
    scale_x: float
    scale_y: float
    um_per_px: float | None

    @property
    def shape(self) -> tuple[int, int]:
        """(height, width) in work pixels."""
        return self.flat.shape[0], self.flat.shape[1]

    def gradient_level(self, k: float) -> float:
        """Gradient magnitude that exceeds the noise by `k` median absolute deviations."""
        return self.gradient_median + k * self.gradient_mad


def measure_gradient(picture: FloatImage) -> tuple[FloatImage, FloatImage, FloatImage]:
    """Scharr gradient per pixel of a picture smoothed with sigma 1 px.

    Returns
    -------
    along columns, along rows, magnitude
        Each (h, w) float32.
    """
    smooth = cv2.GaussianBlur(picture, (0, 0), 1.0)
    # 1/32 normalises the Scharr kernel to grey levels per pixel.
    dx = cv2.Scharr(smooth, cv2.CV_32F, 1, 0, scale=1 / 32)
    dy = cv2.Scharr(smooth, cv2.CV_32F, 0, 1, scale=1 / 32)
    magnitude = np.asarray(cv2.magnitude(dx, dy), dtype=np.float32)
    return np.asarray(dx, dtype=np.float32), np.asarray(dy, dtype=np.float32), magnitude


def measure_noise(values: NDArray[np.floating]) -> tuple[float, float]:
    """Median of values, and their median absolute deviation from it."""
    median = float(np.median(values))
    return median, float(np.median(np.abs(values - median)))


def fill_from_nearest(picture: FloatImage, known: Mask) -> FloatImage:
    """Give every unknown pixel the value of the nearest known one; (h, w) float32."""
    if known.all() or not known.any():
        return picture
    nearest = distance_transform_edt(~known, return_distances=False, return_indices=True)
    return np.asarray(picture[nearest[0], nearest[1]], dtype=np.float32)


def estimate_background(
    picture: FloatImage, *, lit: Mask, thumbnail_px: int, closing_px: int, sigma_px: float
) -> FloatImage:
    """Slowly varying light: closing (removes what is darker than its surroundings) of a small copy, then blur.

    A dark wall would pull the light down beside it, so pixels that are not `lit` take the value of the nearest lit
    ones. `thumbnail_px` is the longest side of the small copy; the diameter of the elliptic closing and the sigma of
    the Gaussian are in pixels of it.
    """
    height, width = picture.shape
    factor = min(1.0, thumbnail_px / max(height, width))
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    small = np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), dtype=np.float32)
    small_lit = cv2.resize(lit.astype(np.float32), size, interpolation=cv2.INTER_AREA) > 0.99
    small = fill_from_nearest(small, small_lit)
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (closing_px, closing_px))
    closed = cv2.GaussianBlur(cv2.morphologyEx(small, cv2.MORPH_CLOSE, kernel), (0, 0), sigma_px)
    return np.asarray(cv2.resize(closed, (width, height), interpolation=cv2.INTER_LINEAR), dtype=np.float32)


def find_lit_field(picture: FloatImage, *, dark_share: float, margin_px: int) -> Mask:
    """Separate the lit well from a dark wall around it.

    A wall shows as pixels at the frame's border much darker than the typical level. The field is the
    convex hull of the largest bright region, drawn in by `margin_px`, because the wall's own shadow is a strong
    edge. Frames without a dark border are lit everywhere.
    """
    height, width = picture.shape
    typical = float(np.percentile(picture, 80))
    bright = (picture > dark_share * typical).astype(np.uint8)
    border = np.concatenate([bright[0], bright[-1], bright[:, 0], bright[:, -1]])
    everywhere = np.ones((height, width), dtype=np.bool_)
    if float(border.mean()) > 0.9:
        return everywhere
    count, labels, stats, _ = cv2.connectedComponentsWithStats(bright, connectivity=4)
    if count < 2:
        return everywhere
    largest = 1 + int(np.argmax(stats[1:, cv2.CC_STAT_AREA]))
    points = cv2.findNonZero((labels == largest).astype(np.uint8))
    field = np.zeros((height, width), dtype=np.uint8)
    cv2.fillConvexPoly(field, cv2.convexHull(points), 1)
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * margin_px + 1, 2 * margin_px + 1))
    eroded = cv2.erode(field, kernel, borderType=cv2.BORDER_CONSTANT, borderValue=1)
    return eroded.astype(np.bool_)


def prepare_work_picture(
    image: GreyImage,
    *,
    um_per_px: float | None,
    target_um_per_px: float,
    longest_side_px: int,
    dark_share: float,
    wall_margin_px: int,
) -> WorkPicture:
    """Reduce a frame, divide by its background and measure its gradient and noise.

    With a known pixel size the work picture has `target_um_per_px` (never magnified), so that every later
    length is a physical one; without it its longest side is `longest_side_px`, which also bounds it otherwise to
    twice that.
    """
    if image.ndim != 2 or image.dtype != np.uint8 or image.size == 0:
        raise PermanentError(
            expected="a non-empty (H, W) uint8 grey picture on a bright background",
            found=f"shape {image.shape}, dtype {image.dtype}",
            where="frame",
            remedy="convert the frame to 8-bit grey while it is read (imaging room)",
        )
    height, width = image.shape
    longest = max(height, width)
    if um_per_px is None:
        factor = min(1.0, longest_side_px / longest)
    else:
        factor = min(1.0, um_per_px / target_um_per_px, 2 * longest_side_px / longest)
    size = (max(8, round(width * factor)), max(8, round(height * factor)))
    work = cv2.resize(image, size, interpolation=cv2.INTER_AREA).astype(np.float32)
    lit = find_lit_field(work, dark_share=dark_share, margin_px=wall_margin_px)
    thumbnail_px = 64
    if um_per_px is not None:
        thumbnail_px = max(16, round(longest * um_per_px / THUMBNAIL_UM_PER_PX))
    background = estimate_background(work, lit=lit, thumbnail_px=thumbnail_px, closing_px=25, sigma_px=4.0)
    background = np.maximum(background, np.float32(1.0))
    flat = np.asarray(work / background, dtype=np.float32)
    gradient_x, gradient_y, gradient = measure_gradient(flat)
    median, mad = measure_noise(gradient[lit] if lit.any() else gradient.ravel())
    return WorkPicture(
        flat=flat,
        background=background,
        gradient_x=gradient_x,
        gradient_y=gradient_y,
        gradient=gradient,
        gradient_median=median,
        gradient_mad=max(mad, 1e-6),
        lit=lit,
        scale_x=width / size[0],
        scale_y=height / size[1],
        um_per_px=None if um_per_px is None else um_per_px * width / size[0],
    )
