"""Embryos without a chorion: closed outlines of plausible area in a work picture.

Chorions are found in `chorions`, exact outlines in the segmentation room.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from morphseq_dagster.detection.parameters import ClassicalDetectorSettings
from morphseq_dagster.detection.regions import (
    apply_hysteresis,
    change_shape,
    ellipse_kernel,
    fill_outlines,
    level_water,
    outline_of,
)
from morphseq_dagster.detection.work_image import MAD_TO_SIGMA, Mask, WorkPicture


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


def find_bodies(
    picture: WorkPicture,
    *,
    area_min_px: float,
    area_max_px: float,
    hole_px: float,
    settings: ClassicalDetectorSettings,
    taken: Mask | None = None,
) -> tuple[Body, ...]:
    """Regions with a closed outline and an area in the given range (work pixels), largest first.

    `hole_px` is the largest area of a yolk, `taken` (h, w) bool marks what has been explained already (chorions)
    and is left out.
    """
    field = picture.lit if taken is None else picture.lit & ~taken
    low = max(settings.body_edge_floor, picture.gradient_level(settings.body_edge_mad))
    high = max(settings.body_seed_floor, picture.gradient_level(settings.body_seed_mad))
    edges = apply_hysteresis(np.where(field, picture.gradient, 0).astype(np.float32), low=low, high=high)
    flat = level_water(
        picture.flat,
        lit=field,
        close_px=settings.body_close_px,
        shade_px=settings.shade_px,
        edge_floor=settings.body_edge_floor,
        edge_sigma=settings.body_edge_mad / MAD_TO_SIGMA,
    )
    dark = field & (flat < 1.0 - settings.body_darkness_min)
    closed = change_shape(edges | dark, cv2.MORPH_CLOSE, settings.body_close_px)
    # A hole as bright and smooth as the background is background (between body and tail, within a thread's loop).
    plain = (np.abs(flat - 1.0) < settings.plain_depth) & (
        cv2.blur(picture.gradient, (5, 5)) < max(settings.plain_gradient, 1.5 * picture.gradient_median)
    )
    filled = fill_outlines(closed, plain=plain, large_px=hole_px).astype(np.uint8)
    opened = cv2.morphologyEx(
        cv2.erode(filled, ellipse_kernel(3)), cv2.MORPH_OPEN, ellipse_kernel(settings.body_open_px)
    )
    count, labels, stats, _ = cv2.connectedComponentsWithStats(opened, connectivity=4)
    near_wall = cv2.dilate((~field).astype(np.uint8), ellipse_kernel(5)).astype(np.bool_)
    strong = cv2.dilate((picture.gradient > low).astype(np.uint8), ellipse_kernel(5)).astype(np.bool_)
    bodies: list[Body] = []
    for index in range(1, count):
        x, y, w, h, area = (int(v) for v in stats[index])
        if not area_min_px <= area <= area_max_px:
            continue
        mask = labels == index
        outline = outline_of(mask)
        if not outline.any():
            continue
        bodies.append(
            Body(
                mask=mask,
                box=(x, y, x + w, y + h),
                area_px=area,
                edge=float(strong[outline].mean()),
                darkness=float(1.0 - np.median(flat[mask])),
                solid=float((flat[mask] < 1.0 - settings.plain_depth).mean()),
                free=float(1.0 - near_wall[outline].mean()),
            )
        )
    bodies.sort(key=lambda b: (-b.area_px, b.box[1], b.box[0]))
    return tuple(bodies)
