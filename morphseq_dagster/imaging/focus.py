"""Focus stacking: one sharp picture from a stack of planes, and which plane each pixel came from.

Choosing planes and stretching grey values (`contrast`) commute.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from morphseq_dagster.imaging.pictures import GreyPixels

_BORDER = cv2.BORDER_REFLECT_101
MAX_PLANES = 255
"""Planes per stack: plane numbers are kept as uint8 and 255 marks padding."""
MAX_FILTER_SIZE = 31
"""Largest aperture of OpenCV's Laplacian."""


@dataclass(frozen=True)
class FocusStack:
    """Result of a focus stack.

    Attributes
    ----------
    pixels
        `(H, W)`, dtype of the planes.
    plane_index
        `(H, W)` uint8, 0-based number of the plane in the order given.
    """

    pixels: GreyPixels
    plane_index: NDArray[np.uint8]


def filter_size(um_per_px: float | None, *, feature_um: float = 3.0) -> int:
    """Side of the focus filter in pixels: 2 r + 1, r = max(1, round(feature / pixel size)); 3 without a pixel size.

    A detail of 3 um tells focus by spec 3.2 step 3 (5 px at 1.887 um/px, 3 px at 5.66 um/px).
    """
    if um_per_px is None:
        return 3
    return min(2 * max(1, round(feature_um / um_per_px)) + 1, MAX_FILTER_SIZE)


def measure_focus(plane: GreyPixels, *, size: int, score_sigma_px: float) -> NDArray[np.float32]:
    """Local energy of the Laplacian of Gaussian: `(H, W)` float32, >= 0.

    Parameters
    ----------
    size
        Odd side of the Gaussian and of the Laplacian in pixels (spec 3.4).
    score_sigma_px
        Sigma in pixels of the Gaussian that averages the squared response (spec 11.3); 0 switches it off.
    """
    # Borders are reflected: zero padding would make a bright rim in the score (spec 3.4).
    smooth = cv2.GaussianBlur(plane.astype(np.float32), (size, size), 0, borderType=_BORDER)
    score = cv2.Laplacian(smooth, cv2.CV_32F, ksize=size, borderType=_BORDER)
    cv2.multiply(score, score, dst=score)
    if score_sigma_px > 0:
        score = cv2.GaussianBlur(score, (0, 0), score_sigma_px, borderType=_BORDER)
    return np.asarray(score, dtype=np.float32)


class FocusStacker:
    """Streaming stack: feed planes one by one, two planes' worth of memory is held; see `measure_focus`."""

    def __init__(self, *, size: int, score_sigma_px: float) -> None:
        self._size, self._sigma = size, score_sigma_px
        self._count = 0
        self._score: NDArray[np.float32] | None = None
        self._pixels: GreyPixels | None = None
        self._index: NDArray[np.uint8] | None = None

    def add(self, plane: GreyPixels) -> None:
        """Take the next plane; every plane has the shape and dtype of the first.

        Raises
        ------
        ValueError
            When shape or dtype differ, or at the 256th plane.
        """
        score = measure_focus(plane, size=self._size, score_sigma_px=self._sigma)
        if self._score is None or self._pixels is None or self._index is None:
            self._score, self._pixels, self._index = score, plane.copy(), np.zeros(plane.shape, np.uint8)
        else:
            if plane.shape != self._pixels.shape or plane.dtype != self._pixels.dtype:
                raise ValueError(
                    f"plane {self._count} is {plane.shape} {plane.dtype}, "
                    f"the first is {self._pixels.shape} {self._pixels.dtype}"
                )
            if self._count >= MAX_PLANES:
                raise ValueError(f"more than {MAX_PLANES} planes")
            # Strictly greater: where planes tie (flat background) the first one stays.
            sharper = score > self._score
            np.copyto(self._score, score, where=sharper)
            np.copyto(self._pixels, plane, where=sharper)
            self._index[sharper] = self._count
        self._count += 1

    def result(self) -> FocusStack:
        """Picture and plane numbers of what was fed so far."""
        if self._pixels is None or self._index is None:
            raise ValueError("a focus stack needs at least one plane")
        return FocusStack(self._pixels.copy(), self._index.copy())


def median_filter_index(plane_index: NDArray[np.uint8], *, size: int) -> NDArray[np.uint8]:
    """Smooth a map of plane numbers by a median over `size` x `size` pixels (odd; 1 changes nothing).

    Pixels must then be gathered again with `gather_planes`.
    """
    return plane_index.copy() if size <= 1 else np.asarray(cv2.medianBlur(plane_index, size), dtype=np.uint8)


def gather_planes(planes: Iterable[GreyPixels], *, plane_index: NDArray[np.uint8]) -> GreyPixels:
    """Collect the pixels that a map of plane numbers names, reading the planes one at a time.

    Raises
    ------
    ValueError
        When there is no plane, or fewer planes than the map names.
    """
    result: GreyPixels | None = None
    count = 0
    for plane in planes:
        if result is None:
            result = np.zeros(plane.shape, plane.dtype)
        np.copyto(result, plane, where=plane_index == count)
        count += 1
    if result is None or int(plane_index.max(initial=0)) >= count:
        raise ValueError(f"the map names plane {int(plane_index.max(initial=0))}, {count} planes were given")
    return result
