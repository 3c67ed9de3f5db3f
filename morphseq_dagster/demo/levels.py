"""Difficulty levels of the demo plate, and the measure by which they are stated.

Holds the parameters of the three levels and `measure_visibility`. Does not hold rendering.

Noise and contrast of the levels beside those of the real time-lapse (Acquifer, 10 embryos in chorions, 18 frames,
180 embryos; JPEG, which hides part of the noise), all taken with `measure_visibility`:

TABLE

"""

from __future__ import annotations

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
    jitter_along_px: int
    jitter_across_px: int
    blur_px_per_plane: float


LEVELS: dict[Difficulty, Level] = {
    "easy": Level(EmbryoLook(1.25, 0.05, 1.1), 205, 0.7, 0.8, 0.06, 0.01, 6, 3, 1, 2.2),
    "middle": Level(EmbryoLook(1.0, 0.045, 1.0), 195, 1.5, 0.9, 0.15, 0.025, 14, 4, 2, 2.0),
    "hard": Level(EmbryoLook(0.6, 0.035, 0.8), 180, 3.0, 1.0, 0.3, 0.04, 30, 5, 2, 1.8),
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
