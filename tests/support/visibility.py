"""How well an embryo shows in a picture: the measure by which the demo's levels are stated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Visibility:
    """How well an embryo shows.

    Attributes
    ----------
    background_grey, embryo_grey
        Medians of the two regions, grey values.
    contrast
        `(background_grey - embryo_grey) / background_grey`.
    noise_sd
        Standard deviation of the pixel noise in the background, grey values.
    """

    background_grey: float
    embryo_grey: float
    contrast: float
    noise_sd: float

    @property
    def noise_to_contrast(self) -> float:
        """Noise over the difference of the two medians; infinite when the embryo does not show."""
        difference = self.background_grey - self.embryo_grey
        return self.noise_sd / difference if difference > 0 else float("inf")


_DIFFERENCE = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32)


def measure_visibility(
    image: npt.NDArray[np.generic],
    *,
    embryo: npt.NDArray[np.bool_],
    background: npt.NDArray[np.bool_],
) -> Visibility:
    """Measure contrast and noise of an embryo on a bright background.

    The noise is that of Immerkaer 1996 (fast noise variance estimation): the difference of two Laplacians, blind
    to slopes and curvature, with standard deviation 6 times the noise's. The standard deviation is taken as the
    root mean square after discarding what lies beyond 4 robust deviations, which removes edges and debris.

    Parameters
    ----------
    image
        `(H, W)` grey picture.
    embryo, background
        `(H, W)` bool; neither may be empty.

    Raises
    ------
    ValueError
        When a region is empty.
    """
    if not embryo.any() or not background.any():
        raise ValueError("embryo and background must both have pixels")
    grey = image.astype(np.float32)
    response = cv2.filter2D(grey, cv2.CV_32F, _DIFFERENCE, borderType=cv2.BORDER_REFLECT_101)[background]
    robust = 1.4826 * float(np.median(np.abs(response)))
    kept = response[np.abs(response) <= 4 * robust + 1e-6]
    noise = float(np.sqrt(np.mean(np.square(kept, dtype=np.float64)))) / 6
    bright, dark = float(np.median(grey[background])), float(np.median(grey[embryo]))
    return Visibility(bright, dark, (bright - dark) / bright, noise)


def measure_in_chorion(
    image: npt.NDArray[np.generic],
    *,
    box_px: tuple[float, float, float, float],
    others_px: Sequence[tuple[float, float, float, float]] = (),
) -> Visibility | None:
    """Measure an embryo whose chorion is known but whose outline is not.

    The embryo is the disc of 0.2 chorion diameters about the box's centre, the background the ring from 0.52 to
    0.75 diameters. Made for comparing pictures; the disc is not the body.

    Parameters
    ----------
    image
        `(H, W)` grey picture.
    box_px
        First row, first column, last row, last column of the chorion, px.
    others_px
        Boxes of other chorions, left out of the background with 10 px around them.

    Returns
    -------
    Visibility or None
        None when fewer than 500 px of background are left.
    """
    rows, columns = np.mgrid[: image.shape[0], : image.shape[1]].astype(np.float32)
    middle_row, middle_column = (box_px[0] + box_px[2]) / 2, (box_px[1] + box_px[3]) / 2
    distance = np.hypot(rows - middle_row, columns - middle_column) / (box_px[3] - box_px[1])
    background = (distance > 0.52) & (distance < 0.75)
    for top, left, bottom, right in others_px:
        background &= (rows < top - 10) | (rows > bottom + 10) | (columns < left - 10) | (columns > right + 10)
    if np.count_nonzero(background) < 500:
        return None
    return measure_visibility(image, embryo=distance < 0.2, background=background)
