from __future__ import annotations

import numpy as np
import pytest

from morphseq_dagster.errors import PermanentError
from morphseq_dagster.segmentation.label_image import draw_label_image


def test_later_number_wins_whatever_the_order_of_the_masks() -> None:
    left, right = np.array([[True, True, False]]), np.array([[False, True, True]])

    one = draw_label_image([(1, left), (2, right)], shape=(1, 3))
    other = draw_label_image([(2, right), (1, left)], shape=(1, 3))

    assert one.tolist() == other.tolist() == [[1, 2, 2]]
    assert one.dtype == np.uint8


def test_no_masks_give_a_blank_picture() -> None:
    assert draw_label_image([], shape=(2, 2)).tolist() == [[0, 0], [0, 0]]


@pytest.mark.parametrize("number", [0, 256])
def test_number_that_does_not_fit_eight_bits_is_refused(number: int) -> None:
    with pytest.raises(PermanentError, match=str(number)):
        draw_label_image([(number, np.ones((1, 1), np.bool_))], shape=(1, 1))


def test_255_fits() -> None:
    assert draw_label_image([(255, np.ones((1, 1), np.bool_))], shape=(1, 1)).tolist() == [[255]]


def test_mask_of_another_shape_is_refused() -> None:
    with pytest.raises(PermanentError, match="embryo 1"):
        draw_label_image([(1, np.ones((2, 1), np.bool_))], shape=(1, 1))
