from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage
from skimage.morphology import closing as sk_closing
from skimage.morphology import disk
from skimage.morphology import opening as sk_opening

from morphseq_dagster.detection import regions
from morphseq_dagster.errors import PermanentError
from morphseq_dagster.morphometry import morphology

MASKS = arrays(np.bool_, st.tuples(st.integers(1, 24), st.integers(1, 24)))


@given(mask=MASKS, radius=st.integers(1, 5))
@settings(max_examples=60)
def test_opening_and_closing_equal_scikit_image_on_a_wide_canvas(mask: np.ndarray, radius: int) -> None:
    wide = np.pad(mask, 12)
    inner = slice(12, -12)
    want_open = sk_opening(wide, disk(radius))[inner, inner]
    want_close = sk_closing(wide, disk(radius))[inner, inner]
    assert np.array_equal(morphology.opening(mask, radius_px=radius), want_open)
    assert np.array_equal(morphology.closing(mask, radius_px=radius), want_close)


@given(mask=MASKS)
@settings(max_examples=60)
def test_fill_holes_equals_scipy(mask: np.ndarray) -> None:
    assert np.array_equal(regions.fill_outlines(mask), ndimage.binary_fill_holes(mask))


@given(mask=MASKS)
@settings(max_examples=60)
def test_occupied_box_holds_every_pixel_and_no_empty_border(mask: np.ndarray) -> None:
    box = morphology.occupied_box(mask)
    if box is None:
        assert not mask.any()
        return
    rows, cols = np.nonzero(mask)
    assert (box.row0, box.col0, box.row1 - 1, box.col1 - 1) == (rows.min(), cols.min(), rows.max(), cols.max())


def test_components_touch_over_corners() -> None:
    mask = np.eye(4, dtype=bool)
    mask[0, 3] = True
    assert regions.component_areas(mask)[1].tolist() == [4, 1]
    assert regions.largest_component(mask).sum() == 4


def test_solidity_of_a_filled_square_is_one_and_of_an_l_shape_below() -> None:
    square = np.zeros((20, 20), bool)
    square[3:13, 4:14] = True
    assert morphology.solidity(square) == 1.0
    corner = square.copy()
    corner[3:8, 9:14] = False
    assert 0.75 < morphology.solidity(corner) < 0.95


def test_a_picture_with_0_and_255_is_refused_as_mask() -> None:
    with pytest.raises(PermanentError, match="picture > 0"):
        morphology.require_mask(np.zeros((4, 4), np.uint8), where="test")  # type: ignore[arg-type]
