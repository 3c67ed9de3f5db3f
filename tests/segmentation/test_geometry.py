from __future__ import annotations

import numpy as np
import pytest

from morphseq_dagster.segmentation.model import measure_mask_box


def test_box_of_the_specification_has_inclusive_maxima() -> None:
    mask = np.zeros((6, 8), np.bool_)
    mask[1:4, 2:6] = True
    mask[4, 3] = True

    assert measure_mask_box(mask) == pytest.approx((0.25, 0.16667, 0.625, 0.66667), abs=1e-5)


def test_box_of_one_pixel_has_no_width() -> None:
    mask = np.zeros((4, 4), np.bool_)
    mask[2, 1] = True

    assert measure_mask_box(mask) == (0.25, 0.5, 0.25, 0.5)


def test_box_of_nothing_is_zero() -> None:
    assert measure_mask_box(np.zeros((4, 4), np.bool_)) == (0.0, 0.0, 0.0, 0.0)


def test_box_of_a_part_is_that_of_the_whole_frame() -> None:
    mask = np.zeros((6, 8), np.bool_)
    mask[1:4, 2:6] = True

    assert measure_mask_box(mask[1:5, 1:], top=1, left=1, size=(6, 8)) == measure_mask_box(mask)
