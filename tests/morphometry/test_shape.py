from __future__ import annotations

import dataclasses
import math

import cv2
import numpy as np
import pytest
from skimage.measure import label, regionprops

from morphseq_dagster.errors import PermanentError
from morphseq_dagster.morphometry.shape import measure_shape, principal_angle


def _rectangle() -> np.ndarray:
    mask = np.zeros((60, 80), bool)
    mask[10:41, 20:31] = True  # 31 rows x 11 columns
    return mask


def test_rectangle_by_hand() -> None:
    shape = measure_shape(_rectangle(), um_per_px=2.0)
    assert shape.area_px == 341
    assert shape.perimeter_px == pytest.approx(2 * (30 + 10))
    assert (shape.centroid_x_px, shape.centroid_y_px) == pytest.approx((25.0, 25.0))
    assert (shape.length_px, shape.width_px) == pytest.approx((30.0, 10.0))
    assert principal_angle(*np.nonzero(_rectangle())) == pytest.approx(0.0, abs=1e-12)
    assert shape.solidity == 1.0
    assert shape.area_um2 == pytest.approx(1364.0)
    assert shape.perimeter_um == pytest.approx(160.0)
    assert (shape.length_um, shape.width_um) == pytest.approx((60.0, 20.0))
    assert (shape.centroid_x_um, shape.centroid_y_um) == pytest.approx((50.0, 50.0))
    assert shape.problem is None


def test_unknown_pixel_size_leaves_every_um_value_unknown_and_the_pixels_known() -> None:
    shape = dataclasses.asdict(measure_shape(_rectangle(), um_per_px=None))
    lengths = {name: value for name, value in shape.items() if name.endswith(("_um", "_um2"))}
    assert len(lengths) == 6
    assert set(lengths.values()) == {None}
    assert shape["length_px"] == pytest.approx(30.0)


def test_values_do_not_depend_on_where_in_the_frame_the_embryo_lies() -> None:
    near = measure_shape(_rectangle(), um_per_px=1.0)
    frame = np.zeros((400, 500), bool)
    frame[110:141, 320:331] = True
    far = measure_shape(frame, um_per_px=1.0)
    same = ("area_px", "perimeter_px", "length_px", "width_px", "solidity")
    assert [getattr(near, n) for n in same] == pytest.approx([getattr(far, n) for n in same])
    assert far.centroid_x_px == pytest.approx(325.0)


def test_tilted_ellipse_agrees_with_regionprops_and_its_known_axes() -> None:
    canvas = np.zeros((300, 300), np.uint8)
    cv2.ellipse(canvas, (150, 140), (100, 30), 30, 0, 360, 1, -1)
    mask = canvas > 0
    shape = measure_shape(mask, um_per_px=1.0)
    region = regionprops(label(mask))[0]
    assert shape.length_px == pytest.approx(200, abs=2)
    assert shape.width_px == pytest.approx(60, abs=2)
    assert principal_angle(*np.nonzero(mask)) == pytest.approx(region.orientation, abs=1e-6)
    assert shape.solidity == pytest.approx(region.solidity, abs=0.02)
    assert (shape.centroid_y_px, shape.centroid_x_px) == pytest.approx(region.centroid)


def test_length_is_the_extent_not_the_moment_axis_on_a_curved_body() -> None:
    canvas = np.zeros((400, 400), np.uint8)
    cv2.ellipse(canvas, (200, 200), (120, 120), 0, 0, 180, 1, 31)
    shape = measure_shape(canvas > 0, um_per_px=1.0)
    # A half ring of outer radius 135: 270 wide; regionprops' major axis is about 300.
    assert shape.length_px == pytest.approx(270, abs=6)
    assert regionprops(canvas)[0].axis_major_length > 290


def test_perimeter_is_that_of_the_piece_with_most_area() -> None:
    mask = _rectangle()
    mask[2:5, 60:63] = True
    shape = measure_shape(mask, um_per_px=None)
    assert shape.perimeter_px == pytest.approx(80.0)


def test_empty_mask_has_area_zero_and_says_so() -> None:
    shape = measure_shape(np.zeros((5, 5), bool), um_per_px=1.0)
    assert (shape.area_px, shape.problem, shape.perimeter_px, shape.area_um2) == (0, "empty mask", None, None)


def test_single_pixel_has_no_extent_and_no_direction() -> None:
    mask = np.zeros((5, 5), bool)
    mask[2, 3] = True
    shape = measure_shape(mask, um_per_px=1.0)
    assert (shape.length_px, shape.width_px, shape.perimeter_px) == (0.0, 0.0, 0.0)
    assert principal_angle(*np.nonzero(mask)) is None


@pytest.mark.parametrize("size", [0.0, -1.0, math.nan, math.inf])
def test_impossible_pixel_size_is_refused(size: float) -> None:
    with pytest.raises(PermanentError, match="um_per_px"):
        measure_shape(_rectangle(), um_per_px=size)


def test_horizontal_axis_lies_at_plus_half_pi() -> None:
    assert principal_angle(*np.nonzero(_rectangle().T)) == pytest.approx(math.pi / 2)
