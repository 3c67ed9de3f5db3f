"""Contrast: percentiles are exact, stretching is linear, nothing overflows."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from morphseq_dagster.imaging.contrast import (
    StretchLimits,
    count_grey_levels,
    find_limits,
    invert,
    stretch,
    stretch_frame,
)

pictures = st.sampled_from([np.uint8, np.uint16]).flatmap(
    lambda dtype: arrays.arrays(dtype, st.tuples(st.integers(1, 12), st.integers(1, 12)))
)


@given(pictures, st.floats(0, 50), st.floats(50, 100))
def test_limits_are_the_inverted_distribution_function(pixels: np.ndarray, low: float, high: float) -> None:
    limits = find_limits(count_grey_levels(pixels), low_percentile=low, high_percentile=high)
    ordered = np.sort(pixels, axis=None)
    for percentile, found in ((low, limits.low), (high, limits.high)):
        # Smallest value of which at least that share of pixels is at or below.
        rank = max(1, int(np.ceil(percentile / 100 * ordered.size)))
        assert found == ordered[rank - 1]


def test_stretch_maps_by_hand() -> None:
    pixels = np.array([[900, 1000, 1100], [1200, 1500, 65535]], np.uint16)
    result = stretch(pixels, limits=StretchLimits(1000, 1500))
    np.testing.assert_array_equal(result, np.array([[0, 0, 51], [102, 255, 255]], np.uint8))


def test_flat_picture_becomes_middle_grey() -> None:
    (result,) = stretch_frame([np.full((4, 5), 812, np.uint16)])
    assert np.unique(result).tolist() == [128]


def test_parts_of_a_frame_share_their_limits() -> None:
    dark, bright = np.full((10, 10), 100, np.uint16), np.full((10, 10), 300, np.uint16)
    a, b = stretch_frame([dark, bright])
    assert (a.max(), b.min()) == (0, 255)


def test_full_16_bit_range_keeps_its_order() -> None:
    ramp = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    (result,) = stretch_frame([ramp], low_percentile=0, high_percentile=100)
    assert (np.diff(result.ravel().astype(int)) >= 0).all()
    assert (result.ravel()[0], result.ravel()[-1]) == (0, 255)


def test_inversion_is_exact_and_leaves_its_input() -> None:
    pixels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    before = pixels.copy()
    np.testing.assert_array_equal(invert(pixels).ravel(), np.arange(255, -1, -1))
    np.testing.assert_array_equal(pixels, before)
    assert invert(pixels).dtype == np.uint8


def test_empty_histogram_is_refused() -> None:
    with pytest.raises(ValueError, match="without pixels"):
        find_limits(np.zeros(65536, np.int64))
