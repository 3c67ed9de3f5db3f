"""Difficulty levels of the demo plate: how bright, noisy and littered its pictures are.

Noise and contrast of the levels beside those of the real time-lapse (18 frames of one well, 10 embryos in chorions,
172 living and 8 dead; JPEG, which hides a part of the noise). Medians of the tests' `measure_in_chorion`; for the real
series also the 5th and 95th percentile. The levels were measured on 30 `Frames` pictures of 10 embryos in chorions at
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

from dataclasses import dataclass
from typing import Literal

from morphseq_dagster.demo.optics import EmbryoLook

Difficulty = Literal["easy", "middle", "hard"]


@dataclass(frozen=True)
class Level:
    """Parameters of one difficulty.

    Attributes
    ----------
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
