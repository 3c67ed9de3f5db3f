"""Embryos without a chorion: closed outlines of plausible area in a work picture.

Holds the search by edges and darkness. Does not hold chorions (`chorions`) nor exact outlines (segmentation room).
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from morphseq_dagster.detection.field import FloatImage, Mask, WorkPicture
from morphseq_dagster.detection.settings import ClassicalDetectorSettings


@dataclass(frozen=True)
class Body:
    """A closed region in work pixels.

    `box` is x_min, y_min, x_max, y_max with the maxima one past the last pixel; `edge` the share of its outline
    with a gradient; `darkness` its median depth below the background (0 to 1), `solid` the share of it that is
    darker than the background, `free` the share of its outline away from the wall, `area_px` its size.
    """

    mask: Mask
    box: tuple[int, int, int, int]
    area_px: int
    edge: float
    darkness: float
    solid: float
    free: float


def apply_hysteresis(values: FloatImage, *, low: float, high: float) -> Mask:
    """Pixels above `low` in regions (8-neighbour) that reach `high`; (h, w) bool."""
    above = (values > low).astype(np.uint8)
    count, labels = cv2.connectedComponents(above, connectivity=8)
    reached = np.zeros(count, dtype=np.bool_)
    reached[np.unique(labels[values > high])] = True
    reached[0] = False
    return np.asarray(reached[labels], dtype=np.bool_)


def fill_outlines(mask: Mask, *, keep_open: Mask | None = None) -> Mask:
    """Fill what outer contours enclose, except holes of which most pixels are in `keep_open`; (h, w) bool."""
    holes = (~mask).astype(np.uint8)
    # The margin joins all outside regions into component 1 whatever touches the frame's border.
    count, labels = cv2.connectedComponents(cv2.copyMakeBorder(holes, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=1), connectivity=4)
    labels = labels[1:-1, 1:-1]
    fill = np.ones(count, dtype=np.bool_)
    fill[1] = False
    if keep_open is not None and count > 2:
        size = np.bincount(labels.ravel(), minlength=count)
        plain = np.bincount(labels[keep_open], minlength=count)
        fill &= plain <= 0.5 * size
    fill[0] = True
    return np.asarray(fill[labels], dtype=np.bool_)


def ellipse_kernel(diameter: int) -> NDArray[np.uint8]:
    """Elliptic structuring element of odd diameter."""
    odd = max(1, diameter | 1)
    return np.asarray(cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (odd, odd)), dtype=np.uint8)


def find_bodies(
    picture: WorkPicture,
    *,
    area_min_px: float,
    area_max_px: float,
    settings: ClassicalDetectorSettings,
    taken: Mask | None = None,
) -> tuple[Body, ...]:
    """Regions with a closed outline and an area in the given range (work pixels), largest first.

    `taken` (h, w) bool marks what has been explained already (chorions) and is left out.
    """
    field = picture.lit if taken is None else picture.lit & ~taken
    low = max(settings.body_edge_floor, picture.gradient_level(settings.body_edge_mad))
    high = max(settings.body_seed_floor, picture.gradient_level(settings.body_seed_mad))
    edges = apply_hysteresis(np.where(field, picture.gradient, 0).astype(np.float32), low=low, high=high)
    dark = field & (picture.flat < 1.0 - settings.body_darkness_min)
    close = settings.body_close_px
    # A margin of background lets the closing and the filling act on objects that the frame cuts.
    marked = cv2.copyMakeBorder((edges | dark).astype(np.uint8), close, close, close, close, cv2.BORDER_REPLICATE)
    closed = cv2.morphologyEx(marked, cv2.MORPH_CLOSE, ellipse_kernel(close))[close:-close, close:-close]
    # A hole as bright and smooth as the background is background (between body and tail, within a thread's loop).
    plain = (np.abs(picture.flat - 1.0) < settings.plain_depth) & (
        cv2.blur(picture.gradient, (5, 5)) < max(settings.plain_gradient, 1.5 * picture.gradient_median)
    )
    filled = fill_outlines(closed.astype(np.bool_), keep_open=plain).astype(np.uint8)
    opened = cv2.morphologyEx(cv2.erode(filled, ellipse_kernel(3)), cv2.MORPH_OPEN, ellipse_kernel(settings.body_open_px))
    count, labels, stats, _ = cv2.connectedComponentsWithStats(opened, connectivity=4)
    near_wall = cv2.dilate((~field).astype(np.uint8), ellipse_kernel(5)).astype(np.bool_)
    strong = cv2.dilate((picture.gradient > low).astype(np.uint8), ellipse_kernel(5)).astype(np.bool_)
    bodies: list[Body] = []
    for index in range(1, count):
        x, y, w, h, area = (int(v) for v in stats[index])
        if not area_min_px <= area <= area_max_px:
            continue
        mask = labels == index
        inner = cv2.erode(
            mask.astype(np.uint8), ellipse_kernel(3), borderType=cv2.BORDER_CONSTANT, borderValue=1
        ).astype(np.bool_)
        outline = mask & ~inner
        if not outline.any():
            continue
        bodies.append(
            Body(
                mask=mask,
                box=(x, y, x + w, y + h),
                area_px=area,
                edge=float(strong[outline].mean()),
                darkness=float(1.0 - np.median(picture.flat[mask])),
                solid=float((picture.flat[mask] < 1.0 - settings.plain_depth).mean()),
                free=float(1.0 - near_wall[outline].mean()),
            )
        )
    bodies.sort(key=lambda b: (-b.area_px, b.box[1], b.box[0]))
    return tuple(bodies)
