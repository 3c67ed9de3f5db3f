"""Tiles of one well to one picture: measured offsets, linear seams, a fixed canvas.

Tiles of a single row or column come in as focused pictures. All offsets are (row, column) in whole pixels.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import fft

from morphseq_dagster.imaging.parameters import CanvasRule, MatchSettings, OrientationRule
from morphseq_dagster.imaging.pictures import GreyPixels

Orientation = Literal["vertical", "horizontal"]
TileSource = Literal["reference", "measured", "plate", "prior"]

# Detail between these two Gaussian sigmas (px) takes part in the matching: below lies noise, above uneven light.
_FINE_SIGMA_PX, _COARSE_SIGMA_PX = 1.5, 20.0
_PEAKS = 8
_LEAST_OVERLAP_PX = 16
# Further digits depend on the processor's vector units.
_NCC_DIGITS = 9


@dataclass(frozen=True)
class TileStep:
    """Shift from one tile to the next in px."""

    row_px: int
    column_px: int


@dataclass(frozen=True)
class TileOffset:
    """Place of one tile relative to the first.

    Attributes
    ----------
    source
        Where the step from the previous tile came from: "measured" on this frame, "plate" where the plate's median
        stands in for it, "prior" where the nominal overlap does; "reference" for the first tile.
    ncc
        Normalised cross-correlation of both tiles on their overlap at the best shift found, -1 to 1; None for the
        first tile and where nothing could be compared.
    """

    row_px: int
    column_px: int
    source: TileSource
    ncc: float | None


def choose_orientation(rule: OrientationRule, *, year: int) -> Orientation:
    """Direction in which tiles adjoin; "auto" is the lab's rule by year of acquisition (spec 3.5).

    Before 2024 the tiles of a well lie below each other, from 2024 on beside each other.
    """
    if rule != "auto":
        return rule
    return "vertical" if year < 2024 else "horizontal"


def nominal_steps(
    tile_shape: tuple[int, int], *, count: int, overlap: float, orientation: Orientation
) -> tuple[TileStep, ...]:
    """Steps between `count` tiles of (rows, columns) px that overlap by a share, really 0.30 (spec 3.2)."""
    if orientation == "vertical":
        step = TileStep(round(tile_shape[0] * (1.0 - overlap)), 0)
    else:
        step = TileStep(0, round(tile_shape[1] * (1.0 - overlap)))
    return (step,) * (count - 1)


def measure_offsets(
    tiles: Sequence[GreyPixels],
    *,
    prior: Sequence[TileStep],
    settings: MatchSettings,
    plate: Sequence[TileStep | None] = (),
) -> tuple[TileOffset, ...]:
    """Find the place of each tile relative to the first.

    Each step is searched around its prior by phase correlation of the expected overlap; the best peaks and the prior
    itself are judged by the correlation on the overlap they imply, which also refuses shifts that are right only
    modulo the compared strip. A step that no shift explains well enough takes the plate's where that is known, else
    keeps its prior; its `source` says which.

    Parameters
    ----------
    tiles
        Pictures of equal shape `(H, W)`, in order along the row or column.
    prior
        Expected step between neighbours, one fewer than tiles.
    plate
        Steps of the plate, from `estimate_plate_steps`. What is measured does not depend on them.
    """
    if len(prior) != len(tiles) - 1:
        raise ValueError(f"{len(tiles)} tiles need {len(tiles) - 1} steps, {len(prior)} were given")
    details = [_detail(tile) for tile in tiles]
    offsets = [TileOffset(0, 0, "reference", None)]
    for i, (first, second) in enumerate(pairwise(details)):
        found, ncc = _match(first, second, prior=prior[i], settings=settings)
        usual = plate[i] if i < len(plate) else None
        source: TileSource
        if ncc is not None and ncc >= settings.least_ncc:
            step, source = found, "measured"
        elif usual is not None:
            step, source = usual, "plate"
        else:
            step, source = prior[i], "prior"
        last = offsets[-1]
        offsets.append(TileOffset(last.row_px + step.row_px, last.column_px + step.column_px, source, ncc))
    return tuple(offsets)


def estimate_plate_steps(frames: Iterable[Sequence[TileOffset]]) -> tuple[TileStep | None, ...]:
    """Find the usual steps of a plate: for each, the median over the frames that measured it (spec 3.5).

    `frames` are the offsets of all wells and times; a step that no frame measured is None.
    """
    measured: list[list[tuple[int, int]]] = []
    for frame in frames:
        for i, (before, tile) in enumerate(pairwise(frame)):
            if i == len(measured):
                measured.append([])
            if tile.source == "measured":
                measured[i].append((tile.row_px - before.row_px, tile.column_px - before.column_px))
    return tuple(_median_step(steps) if steps else None for steps in measured)


def stitch(tiles: Sequence[NDArray[np.uint8]], *, offsets: Sequence[TileOffset]) -> NDArray[np.uint8]:
    """Blend tiles `(H, W)` uint8 of equal shape into one mosaic with linear seams; 0 where no tile lies."""
    places, shape = _places(tiles[0].shape, offsets)
    weighted = np.zeros(shape, np.float32)
    total = np.zeros(shape, np.float32)
    for tile, place, weight in zip(tiles, places, _weights(tiles[0].shape, offsets), strict=True):
        weighted[place] += tile * weight
        total[place] += weight
    mean = np.divide(weighted, total, out=np.zeros(shape, np.float32), where=total > 0)
    return np.floor(mean + np.float32(0.5)).astype(np.uint8)


def stitch_labels(tiles: Sequence[NDArray[np.uint8]], *, offsets: Sequence[TileOffset], fill: int) -> NDArray[np.uint8]:
    """Join maps of numbers (planes), taking each pixel from the tile that weighs most in `stitch`."""
    places, shape = _places(tiles[0].shape, offsets)
    result = np.full(shape, fill, np.uint8)
    best = np.zeros(shape, np.float32)
    for tile, place, weight in zip(tiles, places, _weights(tiles[0].shape, offsets), strict=True):
        heavier = weight > best[place]
        np.copyto(result[place], tile, where=heavier)
        np.copyto(best[place], np.broadcast_to(weight, tile.shape), where=heavier)
    return result


def canvas_shape(
    tile_shape: tuple[int, int], *, count: int, orientation: Orientation, overlap: float, rule: CanvasRule
) -> tuple[int, int]:
    """Size (rows, columns) of the pictures of an experiment, tiles below each other.

    Parameters
    ----------
    orientation
        How tiles adjoin in the raw pictures; horizontal mosaics are transposed before they meet the canvas.
    rule
        "well": the lab's sizes, which cut a mosaic of 4:3 tiles to the well (spec 3.5), for one to three tiles.
        "mosaic": the whole nominal mosaic; also used for more than three tiles.
    """
    rows, columns = tile_shape
    if rule == "well" and count in (1, 2, 3):
        third = (1140, 630) if orientation == "vertical" else (1140, 480)
        base = {1: (480, 640), 2: (800, 630), 3: third}[count]
        # The lab's sizes are given for tiles of 640 columns.
        return round(base[0] * columns / 640), round(base[1] * columns / 640)
    along, across = (rows, columns) if orientation == "vertical" or count == 1 else (columns, rows)
    return along + (count - 1) * round(along * (1.0 - overlap)), across


def fit_canvas(picture: NDArray[np.uint8], *, shape: tuple[int, int], fill: int) -> NDArray[np.uint8]:
    """Cut or pad a picture about its centre to `shape` (rows, columns)."""
    result = np.full(shape, fill, np.uint8)
    source, target = [], []
    for have, want in zip(picture.shape, shape, strict=True):
        size = min(have, want)
        source.append(slice((have - size) // 2, (have - size) // 2 + size))
        target.append(slice((want - size) // 2, (want - size) // 2 + size))
    result[tuple(target)] = picture[tuple(source)]
    return result


def _median_step(steps: Sequence[tuple[int, int]]) -> TileStep:
    row, column = np.median(np.asarray(steps, dtype=np.float64), axis=0)
    return TileStep(int(np.floor(row + 0.5)), int(np.floor(column + 0.5)))


def _detail(tile: GreyPixels) -> NDArray[np.float32]:
    pixels = tile.astype(np.float32)
    fine = cv2.GaussianBlur(pixels, (0, 0), _FINE_SIGMA_PX, borderType=cv2.BORDER_REFLECT_101)
    coarse = cv2.GaussianBlur(pixels, (0, 0), _COARSE_SIGMA_PX, borderType=cv2.BORDER_REFLECT_101)
    return np.asarray(fine - coarse, dtype=np.float32)


def _match(
    first: NDArray[np.float32], second: NDArray[np.float32], *, prior: TileStep, settings: MatchSettings
) -> tuple[TileStep, float | None]:
    along = 0 if abs(prior.row_px) >= abs(prior.column_px) else 1
    reach = max(2, round(settings.search_fraction * first.shape[along]))
    low = (prior.row_px - reach, prior.column_px - reach)
    high = (prior.row_px + reach, prior.column_px + reach)

    @cache
    def score(shift: tuple[int, int]) -> float:
        ncc = _overlap_ncc(first, second, shift=shift)
        return -math.inf if ncc is None else ncc

    # Of equal scores the first candidate, which is the prior.
    here = max([(prior.row_px, prior.column_px), *_correlation_peaks(first, second, low=low, high=high)], key=score)
    # The correlation is then followed to its local maximum over the eight neighbours.
    for _ in range(4):
        around = [(here[0] + i, here[1] + j) for i in (-1, 0, 1) for j in (-1, 0, 1) if (i, j) != (0, 0)]
        inside = [s for s in around if low[0] <= s[0] <= high[0] and low[1] <= s[1] <= high[1]]
        top = max(inside, key=lambda shift: (score(shift), shift), default=here)
        if score(top) <= score(here):
            break
        here = top
    return TileStep(*here), None if score(here) == -math.inf else score(here)


def _correlation_peaks(
    first: NDArray[np.float32], second: NDArray[np.float32], *, low: tuple[int, int], high: tuple[int, int]
) -> list[tuple[int, int]]:
    """Strongest peaks of the phase correlation among the shifts from `low` to `high`.

    Only the parts that can overlap are compared. They are padded to twice their size, so that no shift of one strip
    can pass for another (spec 11.4).
    """
    parts_a, parts_b, origin = [], [], []
    for axis, extent in enumerate(first.shape):
        # Rows of `first` and of `second` that meet for any shift of the search.
        start_a, stop_a = max(0, low[axis]), min(extent, extent + high[axis])
        start_b, stop_b = max(0, -high[axis]), min(extent, extent - low[axis])
        if stop_a - start_a < _LEAST_OVERLAP_PX or stop_b - start_b < _LEAST_OVERLAP_PX:
            return []
        parts_a.append(slice(start_a, stop_a))
        parts_b.append(slice(start_b, stop_b))
        origin.append(start_a - start_b)
    strip_a, strip_b = first[tuple(parts_a)], second[tuple(parts_b)]
    size = [fft.next_fast_len(a + b, real=True) for a, b in zip(strip_a.shape, strip_b.shape, strict=True)]
    spectrum = fft.rfft2(strip_a, size) * np.conj(fft.rfft2(strip_b, size))
    magnitude = np.abs(spectrum)
    # Damped whitening: frequencies without signal would otherwise count as much as those with.
    spectrum /= magnitude + 0.1 * float(magnitude.mean()) + np.finfo(np.float32).tiny
    surface = fft.irfft2(spectrum, size)
    rows = np.arange(low[0], high[0] + 1) - origin[0]
    columns = np.arange(low[1], high[1] + 1) - origin[1]
    window = surface[np.ix_(rows % size[0], columns % size[1])]
    tops = window == cv2.dilate(window, np.ones((3, 3), np.uint8))
    order = np.argsort(-np.where(tops, window, -np.inf), axis=None, kind="stable")[:_PEAKS]
    found = np.stack(np.unravel_index(order, window.shape), axis=1)
    return [(int(row) + low[0], int(column) + low[1]) for row, column in found]


def _overlap_ncc(first: NDArray[np.float32], second: NDArray[np.float32], *, shift: tuple[int, int]) -> float | None:
    """Correlation of both tiles on the overlap that `shift` implies; None when too little overlaps or it is flat."""
    parts_a, parts_b = [], []
    for axis, extent in enumerate(first.shape):
        start, stop = max(0, shift[axis]), min(extent, extent + shift[axis])
        if stop - start < _LEAST_OVERLAP_PX:
            return None
        parts_a.append(slice(start, stop))
        parts_b.append(slice(start - shift[axis], stop - shift[axis]))
    a = first[tuple(parts_a)].astype(np.float64)
    b = second[tuple(parts_b)].astype(np.float64)
    a -= a.mean()
    b -= b.mean()
    # Sums of numpy, not of a linear algebra library: those change in the last digits with the number of threads.
    scale = float(np.sqrt(np.sum(a * a) * np.sum(b * b)))
    return round(float(np.sum(a * b)) / scale, _NCC_DIGITS) if scale > 0 else None


def _places(
    tile_shape: tuple[int, ...], offsets: Sequence[TileOffset]
) -> tuple[list[tuple[slice, slice]], tuple[int, int]]:
    rows, columns = [o.row_px for o in offsets], [o.column_px for o in offsets]
    top, left = min(rows), min(columns)
    places = [
        (slice(r - top, r - top + tile_shape[0]), slice(c - left, c - left + tile_shape[1]))
        for r, c in zip(rows, columns, strict=True)
    ]
    return places, (max(rows) - top + tile_shape[0], max(columns) - left + tile_shape[1])


def _weights(tile_shape: tuple[int, ...], offsets: Sequence[TileOffset]) -> list[NDArray[np.float32]]:
    """Weight of each tile, broadcastable to its shape: 1, falling linearly over the overlap with each neighbour."""
    positions = np.asarray([(o.row_px, o.column_px) for o in offsets])
    along = int(np.argmax(np.ptp(positions, axis=0)))
    extent = tile_shape[along]
    weights = [np.ones(extent, np.float32) for _ in offsets]
    for i in range(len(offsets) - 1):
        step = int(positions[i + 1, along] - positions[i, along])
        overlap = extent - abs(step)
        if overlap <= 0:
            continue
        ramp = (np.arange(overlap, dtype=np.float32) + 1) / np.float32(overlap + 1)
        before, after = (i, i + 1) if step >= 0 else (i + 1, i)
        weights[after][:overlap] *= ramp
        weights[before][extent - overlap :] *= ramp[::-1]
    return [w[:, None] if along == 0 else w[None, :] for w in weights]
