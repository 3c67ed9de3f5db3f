"""Grey values: deterministic stretch of raw counts to 8 bits, and explicit inversion (spec, findings 3 and 4)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from morphseq_dagster.imaging.pictures import GreyPixels

GREY_LEVELS = 65536
"""Bins of a histogram: one per value of uint16, so percentiles are exact for both depths."""


@dataclass(frozen=True)
class StretchLimits:
    """Grey values that become black (0) and white (255)."""

    low: int
    high: int


def count_grey_levels(pixels: GreyPixels) -> NDArray[np.int64]:
    """Histogram `(65536,)` int64 of a uint8 or uint16 array of any shape; histograms of parts may be added."""
    return np.bincount(pixels.ravel(), minlength=GREY_LEVELS).astype(np.int64, copy=False)


def find_limits(
    histogram: NDArray[np.int64], *, low_percentile: float = 0.1, high_percentile: float = 99.9
) -> StretchLimits:
    """Grey values at two percentiles of all counted pixels, by default those of spec 3.2 step 2.

    Each is the smallest value with at least that share of pixels at or below it (the inverted distribution function).
    """
    cumulative = np.cumsum(histogram)
    total = int(cumulative[-1])
    if total == 0:
        raise ValueError("a histogram without pixels has no percentiles")

    def value_at(percentile: float) -> int:
        rank = max(1, int(np.ceil(percentile / 100.0 * total)))
        return int(np.searchsorted(cumulative, rank, side="left"))

    return StretchLimits(low=value_at(low_percentile), high=value_at(high_percentile))


def stretch(pixels: GreyPixels, *, limits: StretchLimits) -> NDArray[np.uint8]:
    """Map grey values linearly so that `limits.low` becomes 0 and `limits.high` 255, clipped and rounded.

    When both are equal the picture is flat: that value becomes 128, lower 0, higher 255.
    """
    values = np.arange(GREY_LEVELS, dtype=np.float64)
    if limits.high > limits.low:
        scaled = (values - limits.low) * (255.0 / (limits.high - limits.low))
        table = np.floor(np.clip(scaled, 0.0, 255.0) + 0.5).astype(np.uint8)
    else:
        table = np.where(values < limits.low, 0, np.where(values > limits.low, 255, 128)).astype(np.uint8)
    return np.take(table, pixels)


def stretch_frame(
    parts: Iterable[GreyPixels], *, low_percentile: float = 0.1, high_percentile: float = 99.9
) -> list[NDArray[np.uint8]]:
    """Stretch all parts of one frame (its tiles, or the one picture) by percentiles common to them."""
    arrays = list(parts)
    histogram = np.zeros(GREY_LEVELS, np.int64)
    for part in arrays:
        histogram += count_grey_levels(part)
    limits = find_limits(histogram, low_percentile=low_percentile, high_percentile=high_percentile)
    return [stretch(part, limits=limits) for part in arrays]


def invert(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Turn dark into bright: 255 - x on uint8 (spec 3.2 step 5)."""
    return np.subtract(np.uint8(255), pixels)
