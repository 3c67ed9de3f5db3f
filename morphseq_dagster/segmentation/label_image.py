"""Label images: one picture in which the value of a pixel is its embryo's number (spec 1.9)."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from morphseq_dagster.errors import PermanentError

Mask = NDArray[np.bool_]
LABEL_MAX = 255
"""Largest embryo number that an 8-bit label image can hold."""


def draw_label_image(masks: Iterable[tuple[int, Mask]], *, shape: tuple[int, int]) -> NDArray[np.uint8]:
    """Draw masks `(H, W)` bool with their numbers, 1 to 255, into one picture; uint8, 0 where no embryo is.

    Where masks overlap, the higher embryo number wins whatever the order of `masks`, so that equal masks give
    equal bytes.

    Raises
    ------
    PermanentError
        When a number does not fit or a mask has another shape.
    """
    labels = np.zeros(shape, dtype=np.uint8)
    for number, mask in sorted(masks, key=lambda pair: pair[0]):
        if not 1 <= number <= LABEL_MAX:
            raise PermanentError(
                expected=f"an embryo number from 1 to {LABEL_MAX}",
                found=str(number),
                where="label image",
                remedy="split the well: an 8-bit label image holds 255 embryos at most",
            )
        if mask.shape != shape:
            raise PermanentError(
                expected=f"masks of shape {shape}",
                found=f"a mask of shape {mask.shape} for embryo {number}",
                where="label image",
                remedy="make the segmentation of this frame again",
            )
        labels[mask] = number
    return labels
