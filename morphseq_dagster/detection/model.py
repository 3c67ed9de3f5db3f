"""What a detector is and what it returns; `backends` lists the implementations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from morphseq_dagster.backends import BackendIdentity

Box = tuple[float, float, float, float]
"""x_min, y_min, x_max, y_max; normalised to [0, 1] by the frame's width and height unless said otherwise."""


@dataclass(frozen=True)
class Detection:
    """One embryo found in one frame.

    Attributes
    ----------
    box_xyxy
        Normalised corners x_min, y_min, x_max, y_max. Encloses the chorion where there is one, else the body.
    confidence
        0 to 1; 0.45 is the default limit of the quality filter (spec 3.1).
    phrase
        What was found, in the words of the detector's prompt.
    """

    box_xyxy: Box
    confidence: float
    phrase: str


class Detector(Protocol):
    """Finds embryos in one picture."""

    def detect(self, image: NDArray[np.uint8], *, um_per_px: float | None) -> tuple[Detection, ...]:
        """Embryos of one frame `(H, W)` uint8 with a bright background, the most confident first.

        The pixel size is None when it is unknown.
        """
        ...

    def identity(self) -> BackendIdentity:
        """Name, version and weights of this detector, for the provenance record."""
        ...
