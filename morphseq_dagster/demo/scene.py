"""A well without its embryo: light, well edge, dirt on the plate's bottom, debris, threads and bubbles."""

from __future__ import annotations

from functools import partial

import cv2
import numpy as np
import numpy.typing as npt

from morphseq_dagster.demo.levels import Level
from morphseq_dagster.demo.randomness import open_stream

Image = npt.NDArray[np.float32]


def draw_background(
    seed: int,
    *,
    name: str,
    shape: tuple[int, int],
    um_per_px: float,
    level: Level,
    keep_clear: tuple[float, float, float] | None,
    edge: bool,
) -> Image:
    """Draw the sharp background of a well: `(H, W)` float32 grey values of the light that the well lets through.

    Parameters
    ----------
    keep_clear
        (row, column, radius) in px of the embryo, on which no debris falls (on `hard` it may touch); None for an
        empty well, which gets twice as much.
    edge
        Whether the well's dark edge reaches into the scene.
    """
    random = open_stream(seed, name=f"{name}/background")
    light = level.background_grey * _draw_light(random, shape=shape, depth=level.unevenness)
    light *= np.exp(-_draw_dirt(random, shape=shape, level=level))
    light *= np.exp(-_draw_debris(random, shape=shape, um_per_px=um_per_px, level=level, keep_clear=keep_clear))
    if edge:
        light *= _draw_edge(random, shape=shape, um_per_px=um_per_px, keep_clear=keep_clear)
    return np.asarray(light, np.float32)


def _draw_light(random: np.random.Generator, *, shape: tuple[int, int], depth: float) -> Image:
    """Slow light: a tilt and one or two soft shadows that enter from the border."""
    rows, columns = np.mgrid[-1 : 1 : shape[0] * 1j, -1 : 1 : shape[1] * 1j].astype(np.float32)
    angle = random.uniform(0, 2 * np.pi)
    light = 1 + 0.35 * depth * (np.cos(angle) * columns + np.sin(angle) * rows)
    for _ in range(2):
        turn = random.uniform(0, 2 * np.pi)
        reach = random.uniform(0.9, 1.3)
        row, column = reach * np.sin(turn), reach * np.cos(turn)
        size = random.uniform(0.3, 0.6)
        light -= depth * np.exp(-((rows - row) ** 2 + (columns - column) ** 2) / (2 * size**2))
    return np.asarray(light, np.float32)


def _draw_dirt(random: np.random.Generator, *, shape: tuple[int, int], level: Level) -> Image:
    """Fixed fine pattern of the bottom: mottle, faint scratches and many specks of a pixel or two."""
    strength = level.pattern_sd / level.background_grey
    mottle = cv2.GaussianBlur(random.standard_normal(shape, np.float32), (0, 0), 1.2)
    mottle *= strength / mottle.std()
    specks = np.zeros(shape, np.float32)
    count = shape[0] * shape[1] // 2500
    at = random.integers(0, [[shape[0]], [shape[1]]], (2, count))
    specks[at[0], at[1]] = random.exponential(1.0, count)
    specks = 14 * strength * cv2.GaussianBlur(specks, (0, 0), 0.9) * 5
    scratches = np.zeros(shape, np.float32)
    for _ in range(5):
        ends = random.uniform(0, 1, (2, 2)) * [shape[1], shape[0]]
        cv2.line(
            scratches,
            (int(ends[0, 0]), int(ends[0, 1])),
            (int(ends[1, 0]), int(ends[1, 1])),
            float(2.5 * strength),
            1,
            cv2.LINE_AA,
        )
    return np.asarray(mottle + specks + cv2.GaussianBlur(scratches, (0, 0), 0.7), np.float32)


def _draw_debris(
    random: np.random.Generator,
    *,
    shape: tuple[int, int],
    um_per_px: float,
    level: Level,
    keep_clear: tuple[float, float, float] | None,
) -> Image:
    drawn = np.zeros(shape, np.float32)
    count = level.debris * (2 if keep_clear is None else 1)
    if keep_clear is not None and level.debris_touches:
        # Less room than the embryo's circle and the debris' reach: some of it comes to lie on the rim.
        keep_clear = (keep_clear[0], keep_clear[1], 0.9 * keep_clear[2] - 40)
    for add, number, reach in (
        (partial(_add_speck, um_per_px=um_per_px), count, 12),
        (_add_thread, max(1, count // 10), 75),
        (partial(_add_bubble, um_per_px=um_per_px), max(1, count // 8), 30),
    ):
        for _ in range(number):
            place = _find_place(random, shape=shape, keep_clear=keep_clear, reach=reach)
            if place is not None:
                add(drawn, random, place=place)
    return drawn


def _find_place(
    random: np.random.Generator,
    *,
    shape: tuple[int, int],
    keep_clear: tuple[float, float, float] | None,
    reach: float,
) -> tuple[float, float] | None:
    row, column = random.uniform(0, shape[0]), random.uniform(0, shape[1])
    if keep_clear is not None and np.hypot(row - keep_clear[0], column - keep_clear[1]) < keep_clear[2] + reach:
        return None
    return float(row), float(column)


def _window(
    drawn: Image, *, place: tuple[float, float], reach: float
) -> tuple[Image, npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    top, left = max(0, int(place[0] - reach)), max(0, int(place[1] - reach))
    view = drawn[top : int(place[0] + reach) + 1, left : int(place[1] + reach) + 1]
    rows, columns = np.mgrid[top : top + view.shape[0], left : left + view.shape[1]]
    return view, rows - place[0], columns - place[1]


def _add_speck(drawn: Image, random: np.random.Generator, *, place: tuple[float, float], um_per_px: float) -> None:
    """A clump: a few overlapping blobs, some soft (out of focus)."""
    size = random.uniform(8, 34) / um_per_px
    view, dy, dx = _window(drawn, place=place, reach=5 * size + 4)
    for _ in range(int(random.integers(1, 5))):
        oy, ox = random.normal(0, 0.8 * size, 2)
        stretch = random.uniform(0.6, 1.6)
        soft = random.uniform(0.5, 1.0) * size
        depth = random.uniform(0.05, 0.5)
        view += (depth * np.exp(-(((dy - oy) / stretch) ** 2 + ((dx - ox) * stretch) ** 2) / (2 * soft**2))).astype(
            np.float32
        )


def _add_thread(drawn: Image, random: np.random.Generator, *, place: tuple[float, float]) -> None:
    heading = random.uniform(0, 2 * np.pi) + np.cumsum(random.normal(0, 0.12, 60))
    step = random.uniform(0.8, 1.6)
    columns = place[1] + step * np.cumsum(np.cos(heading))
    rows = place[0] + step * np.cumsum(np.sin(heading))
    canvas = np.zeros(drawn.shape, np.float32)
    points = np.rint(np.stack([columns, rows], axis=1) * 16).astype(np.int32)
    cv2.polylines(canvas, [points], False, 1.0, 1, cv2.LINE_AA, 4)
    drawn += random.uniform(0.15, 0.4) * cv2.GaussianBlur(canvas, (0, 0), random.uniform(0.6, 1.1))


def _add_bubble(drawn: Image, random: np.random.Generator, *, place: tuple[float, float], um_per_px: float) -> None:
    """A gas bubble: a dark ring with a bright middle."""
    radius = random.uniform(25, 75) / um_per_px
    view, dy, dx = _window(drawn, place=place, reach=radius + 8)
    inside = radius - np.hypot(dy, dx)
    ring = random.uniform(0.5, 1.0) * np.exp(-(((inside - 0.14 * radius - 1) / (0.16 * radius + 0.6)) ** 2))
    glow = 0.06 * np.clip(inside / radius, 0, 1)
    view += (ring - glow).astype(np.float32)


def _draw_edge(
    random: np.random.Generator,
    *,
    shape: tuple[int, int],
    um_per_px: float,
    keep_clear: tuple[float, float, float] | None,
) -> Image:
    """Dark wall of the round well (6.4 mm across), seen at one end of the strip of tiles."""
    radius = 3200.0 / um_per_px
    long = int(np.argmax(shape))
    middle = np.array(shape, np.float64) / 2
    side, rim = float(random.choice([-1.0, 1.0])), random.uniform(0.30, 0.36) * shape[long]
    if keep_clear is not None:
        # The wall stands on the side that the embryo leaves free, and never closer than the embryo lies.
        side = -1.0 if keep_clear[long] >= middle[long] else 1.0
        rim = max(rim, side * (keep_clear[long] - middle[long]) + keep_clear[2] + 220.0 / um_per_px)
    # `rim` is where the wall cuts the long axis, from the middle of the scene.
    middle[long] += side * (rim - radius)
    middle[1 - long] += random.uniform(-0.06, 0.06) * shape[1 - long]
    rows, columns = np.mgrid[: shape[0], : shape[1]].astype(np.float32)
    outside = np.hypot(rows - middle[0], columns - middle[1]) - radius
    soft = 55.0 / um_per_px
    wall = 0.72 / (1 + np.exp(-np.clip(outside / soft, -40, 40)))
    caustic = 0.05 * np.exp(-(((outside + 4 * soft) / (1.5 * soft)) ** 2))
    return np.asarray(1 - wall + caustic, np.float32)
