"""Difficulty levels of the demo plate, and the measure by which they are stated.

Holds the parameters of the three levels and the measurement of visibility. Does not hold rendering.

Noise and contrast of the levels beside those of the real time-lapse (18 frames of one well, 10 embryos in chorions,
172 living and 8 dead; JPEG, which hides a part of the noise). Medians of `measure_in_chorion`; for the real series
also the 5th and 95th percentile. The levels were measured on 30 `Frames` pictures of 10 embryos in chorions at
5.66 um/px, 11.5 to 25 hpf.

| figure                    | real                | easy  | middle | hard  |
|---------------------------|---------------------|-------|--------|-------|
| background, grey          | 193 (150-210)       | 202   | 188    | 167   |
| contrast, living          | 0.252 (0.158-0.341) | 0.330 | 0.274  | 0.157 |
| contrast, dead            | 0.779 (0.769-0.790) | 0.815 | 0.736  | 0.553 |
| noise sd, grey            | 0.57 (0.50-0.62)    | 0.76  | 1.53   | 3.02  |
| noise / contrast, living  | 0.012 (0.009-0.021) | 0.011 | 0.030  | 0.116 |

So `easy` is as noisy as the real series with a third more contrast, `middle` has the real contrast with two and a
half times the noise for it, `hard` has the contrast of the faintest real embryos with ten times the noise, and
debris that touches them.
Embryos without a chorion are fainter than those inside one, as nothing darkens their surroundings: there is no real
series to compare them with.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
import numpy.typing as npt

from morphseq_dagster.demo.optics import EmbryoLook

Difficulty = Literal["easy", "middle", "hard"]


@dataclass(frozen=True)
class Level:
    """Parameters of one difficulty.

    Attributes
    ----------
    look
        Strength of the embryo.
    background_grey
        Grey value of the empty field, 0 to 255.
    noise_sd
        Standard deviation of the camera noise, grey values.
    pattern_sd
        Standard deviation of the fixed fine pattern of the plate's bottom, grey values.
    unevenness
        Depth of the slow shadows that lie over a well, as a share of the background.
    tile_gain
        Half-range of the gain between tiles, as a share.
    debris
        Number of specks in a well; threads and bubbles come in a fixed share.
    debris_touches
        Whether debris may lie against the embryo or its chorion.
    jitter_along_px, jitter_across_px
        Half-range of the stage's error along and across the row of tiles; whole pixels.
    blur_px_per_plane
        Standard deviation of the defocus at one plane's distance.
    """

    look: EmbryoLook
    background_grey: float
    noise_sd: float
    pattern_sd: float
    unevenness: float
    tile_gain: float
    debris: int
    debris_touches: bool
    jitter_along_px: int
    jitter_across_px: int
    blur_px_per_plane: float


LEVELS: dict[Difficulty, Level] = {
    "easy": Level(EmbryoLook(1.05, 0.04, 1.1), 205, 0.7, 0.8, 0.06, 0.01, 6, False, 3, 1, 2.2),
    "middle": Level(EmbryoLook(0.8, 0.036, 1.0), 195, 1.5, 0.9, 0.15, 0.025, 14, False, 4, 2, 2.0),
    "hard": Level(EmbryoLook(0.45, 0.03, 0.7), 180, 3.0, 1.0, 0.3, 0.04, 30, True, 5, 2, 1.8),
}


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
