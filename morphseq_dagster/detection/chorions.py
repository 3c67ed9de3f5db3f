"""Embryos in their chorions: circles with a supported rim, refined to ellipses.

Embryos without a chorion are found in `bodies`, the embryo inside in the segmentation room.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from morphseq_dagster.detection.filtering import measure_box_iou
from morphseq_dagster.detection.parameters import ClassicalDetectorSettings
from morphseq_dagster.detection.work_image import FloatImage, Mask, WorkPicture

FloatArray = NDArray[np.float64]
Ellipse = tuple[float, float, float, float, float]
"""Centre x, centre y, two half axes (work pixels), angle of the first one (radians)."""


@dataclass(frozen=True)
class Chorion:
    """An ellipse in work pixels: x along columns, y along rows, angle of the first half axis in radians.

    `support` is the share of the visible rim that shows an edge, `visible` the share of the rim inside the
    frame.
    """

    x: float
    y: float
    half_a: float
    half_b: float
    angle: float
    support: float
    visible: float

    @property
    def radius(self) -> float:
        """Radius of the circle of equal area."""
        return float(np.sqrt(self.half_a * self.half_b))

    def box(self) -> tuple[float, float, float, float]:
        """Upright box x_min, y_min, x_max, y_max of the ellipse, not clipped to the frame."""
        cos, sin = np.cos(self.angle), np.sin(self.angle)
        dx = float(np.hypot(self.half_a * cos, self.half_b * sin))
        dy = float(np.hypot(self.half_a * sin, self.half_b * cos))
        return self.x - dx, self.y - dy, self.x + dx, self.y + dy

    def fill(self, shape: tuple[int, int], *, factor: float = 1.0) -> Mask:
        """Pixels of a (h, w) picture inside the ellipse scaled by `factor`; (h, w) bool."""
        filled = np.zeros(shape, dtype=np.bool_)
        reach = factor * max(self.half_a, self.half_b) + 1
        top, left = max(0, int(self.y - reach)), max(0, int(self.x - reach))
        bottom, right = min(shape[0], int(self.y + reach) + 2), min(shape[1], int(self.x + reach) + 2)
        if top >= bottom or left >= right:
            return filled
        rows = np.arange(top, bottom, dtype=np.float32)[:, None] - np.float32(self.y)
        columns = np.arange(left, right, dtype=np.float32)[None, :] - np.float32(self.x)
        cos, sin = np.float32(np.cos(self.angle)), np.float32(np.sin(self.angle))
        u, v = columns * cos + rows * sin, rows * cos - columns * sin
        radii = (u / np.float32(self.half_a * factor)) ** 2 + (v / np.float32(self.half_b * factor)) ** 2
        filled[top:bottom, left:right] = radii <= 1.0
        return filled


def sample(picture: FloatImage, x: FloatArray, y: FloatArray) -> FloatArray:
    """Bilinear values of a (h, w) picture at points of any shape; NaN outside the frame."""
    values = cv2.remap(
        picture,
        np.ascontiguousarray(x, dtype=np.float32),
        np.ascontiguousarray(y, dtype=np.float32),
        interpolation=cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REPLICATE,
    ).astype(np.float64)
    height, width = picture.shape
    outside = (x < 0) | (y < 0) | (x > width - 1) | (y > height - 1)
    return np.where(outside, np.nan, values.reshape(x.shape))


def polar_gradient(picture: WorkPicture, ellipse: Ellipse, factors: FloatArray, directions: int) -> FloatArray:
    """Gradient across an ellipse's rim.

    Only the part of the gradient along the rim's normal counts, so that threads and bodies which cross a
    circle do not pass for its rim.

    Returns
    -------
    (directions, len(factors)) float64
        Magnitude on the ellipse scaled by each factor; NaN outside the frame.
    """
    x, y, half_a, half_b, angle = ellipse
    t = np.linspace(0.0, 2 * np.pi, directions, endpoint=False)
    u, v = half_a * np.cos(t), half_b * np.sin(t)
    rim_x, rim_y = u * np.cos(angle) - v * np.sin(angle), u * np.sin(angle) + v * np.cos(angle)
    u, v = np.cos(t) / half_a, np.sin(t) / half_b
    length = np.hypot(u, v)
    normal_x = (u * np.cos(angle) - v * np.sin(angle)) / length
    normal_y = (u * np.sin(angle) + v * np.cos(angle)) / length
    px, py = x + np.outer(rim_x, factors), y + np.outer(rim_y, factors)
    across = sample(picture.gradient_x, px, py) * normal_x[:, None]
    across = across + sample(picture.gradient_y, px, py) * normal_y[:, None]
    return np.asarray(np.abs(across), dtype=np.float64)


def measure_rim(picture: WorkPicture, ellipse: Ellipse, *, settings: ClassicalDetectorSettings) -> tuple[float, float]:
    """Share of the visible rim with an edge, and share of the rim that is visible.

    A direction supports the rim when the gradient within `rim_tolerance_px` of it exceeds the noise by
    `rim_mad` median absolute deviations.
    """
    radius = float(np.sqrt(ellipse[2] * ellipse[3]))
    steps = np.arange(-settings.rim_tolerance_px, settings.rim_tolerance_px + 1)
    values = polar_gradient(picture, ellipse, 1.0 + steps / radius, settings.directions)
    seen = np.isfinite(values).all(axis=1)
    if not seen.any():
        return 0.0, 0.0
    peak = values[seen].max(axis=1)
    return float((peak > picture.gradient_level(settings.rim_mad)).mean()), float(seen.mean())


def refine_ellipse(
    picture: WorkPicture, circle: tuple[float, float, float], *, settings: ClassicalDetectorSettings
) -> Ellipse:
    """Fit an ellipse to the strongest edges near a circle, dropping outliers; the circle itself if that fails.

    Edges are looked for between 0.85 and 1.15 radii. The fit is refused when a half axis differs from the
    radius by more than 20 %, or when too little of the rim is visible to determine five parameters.
    """
    x, y, radius = circle
    fallback = (x, y, radius, radius, 0.0)
    factors = np.linspace(0.85, 1.15, max(9, round(0.3 * radius * 2) + 1))
    profile = polar_gradient(picture, fallback, factors, settings.directions)
    seen = np.isfinite(profile).all(axis=1)
    if float(seen.mean()) < settings.ellipse_min_visible:
        return fallback
    profile = np.where(np.isfinite(profile), profile, 0.0)
    best = profile.argmax(axis=1)
    strong = profile[np.arange(len(best)), best] > picture.gradient_level(settings.rim_mad)
    keep = seen & strong
    t = np.linspace(0.0, 2 * np.pi, settings.directions, endpoint=False)
    distance = radius * factors[best]
    for _ in range(4):
        if keep.sum() < settings.directions // 3:
            return fallback
        points = np.stack([x + distance[keep] * np.cos(t[keep]), y + distance[keep] * np.sin(t[keep])], axis=1)
        (cx, cy), (full_a, full_b), degrees = cv2.fitEllipseDirect(points.astype(np.float32))
        half_a, half_b, angle = full_a / 2, full_b / 2, np.deg2rad(degrees)
        within = 0.8 * radius <= min(half_a, half_b) and max(half_a, half_b) <= 1.2 * radius
        if not np.isfinite([cx, cy, half_a, half_b]).all() or not within:
            return fallback
        px, py = x + distance * np.cos(t) - cx, y + distance * np.sin(t) - cy
        u, v = px * np.cos(angle) + py * np.sin(angle), py * np.cos(angle) - px * np.sin(angle)
        residual = np.abs(np.hypot(u / half_a, v / half_b) - 1.0) * radius
        limit = max(1.0, 2.5 * 1.4826 * float(np.median(residual[keep])))
        keep = seen & strong & (residual <= limit)
    return float(cx), float(cy), float(half_a), float(half_b), float(angle)


def measure_content(picture: WorkPicture, chorion: Chorion, *, settings: ClassicalDetectorSettings) -> float:
    """Share of the interior (inside 0.8 of the rim) with an edge or darkness close by; 0 for plain fluid."""
    x0, y0, x1, y1 = (int(v) for v in chorion.box())
    height, width = picture.shape
    rows, columns = slice(max(0, y0), min(height, y1 + 1)), slice(max(0, x0), min(width, x1 + 1))
    flat, gradient = picture.flat[rows, columns], picture.gradient[rows, columns]
    if flat.size == 0:
        return 0.0
    shifted = replace(chorion, x=chorion.x - columns.start, y=chorion.y - rows.start)
    inside = shifted.fill((flat.shape[0], flat.shape[1]), factor=0.8)
    if not inside.any():
        return 0.0
    fluid = float(np.percentile(flat[inside], 90))
    marked = (gradient > picture.gradient_level(settings.body_seed_mad)) | (flat < 0.85 * fluid)
    near = cv2.dilate(marked.astype(np.uint8), np.ones((5, 5), np.uint8)).astype(np.bool_)
    return float(near[inside].mean())


def propose_circles(
    picture: WorkPicture, *, radius_min: float, radius_max: float, settings: ClassicalDetectorSettings
) -> list[tuple[float, float, float]]:
    """Hough circles (x, y, radius) in work pixels, also such whose centre lies just outside the frame."""
    grey = np.clip(picture.flat * settings.hough_grey, 0, 255).astype(np.uint8)
    pad = int(np.ceil(0.6 * radius_min))
    padded = cv2.copyMakeBorder(grey, pad, pad, pad, pad, cv2.BORDER_CONSTANT, value=settings.hough_grey)
    found = cv2.HoughCircles(
        padded,
        cv2.HOUGH_GRADIENT,
        dp=settings.hough_dp,
        minDist=max(4.0, settings.hough_min_distance * radius_min),
        param1=settings.hough_edge,
        param2=settings.hough_votes,
        minRadius=max(3, int(radius_min)),
        maxRadius=max(4, int(np.ceil(radius_max))),
    )
    if found is None:
        return []
    return [(float(x) - pad, float(y) - pad, float(r)) for x, y, r in found.reshape(-1, 3)]


def propose_radii(
    picture: WorkPicture,
    circle: tuple[float, float, float],
    *,
    radii: FloatArray,
    settings: ClassicalDetectorSettings,
) -> tuple[float, ...]:
    """Radii worth a look about the centre of a circle: its own, and the one with the most edges around.

    The Hough transform reports one circle per place, which may be the curve of the body within the chorion.
    """
    x, y, radius = circle
    profile = polar_gradient(picture, (x, y, 1.0, 1.0, 0.0), radii, settings.directions)
    strong = np.nan_to_num(profile, nan=0.0) > picture.gradient_level(settings.rim_mad)
    # Three pixels allow for a centre that is not quite right.
    near = cv2.dilate(strong.astype(np.uint8), np.ones((1, 7), np.uint8)).astype(np.float64)
    seen = np.isfinite(profile).sum(axis=0)
    support = np.where(seen >= settings.rim_visible_min * len(profile), near.sum(axis=0) / np.maximum(seen, 1), 0)
    # Of equal radii the largest: the chorion is the outermost circle.
    best = len(radii) - 1 - int(np.argmax(support[::-1]))
    other = float(radii[best])
    return (radius,) if abs(other - radius) < 4.0 else (radius, other)


def find_chorions(
    picture: WorkPicture, *, radius_min: float, radius_max: float, settings: ClassicalDetectorSettings
) -> tuple[Chorion, ...]:
    """Chorions of a work picture with a radius in the given range (work pixels), best supported first."""
    candidates: list[Chorion] = []
    circles = propose_circles(picture, radius_min=radius_min, radius_max=radius_max, settings=settings)
    radii = np.arange(radius_min, radius_max + 1.0)
    tried = [(*c[:2], radius) for c in circles for radius in propose_radii(picture, c, radii=radii, settings=settings)]
    for circle in tried:
        ellipse = refine_ellipse(picture, circle, settings=settings)
        support, visible = measure_rim(picture, ellipse, settings=settings)
        if not radius_min <= float(np.sqrt(ellipse[2] * ellipse[3])) <= radius_max:
            continue
        if support < settings.rim_support_min or visible < settings.rim_visible_min:
            continue
        chorion = Chorion(*ellipse, support=support, visible=visible)
        if measure_content(picture, chorion, settings=settings) >= settings.content_min:
            candidates.append(chorion)
    # A chorion's rim is nearly whole; of two such circles in one place the outer one is the chorion.
    candidates.sort(key=lambda c: (-round(min(c.support, settings.rim_whole) * c.visible, 2), -c.radius, c.y, c.x))
    kept: list[Chorion] = []
    for candidate in candidates:
        if all(measure_box_iou(candidate.box(), other.box()) <= settings.overlap_max for other in kept):
            kept.append(candidate)
    return tuple(kept)
