"""What a detector is and returns, and the detectors, one entry each; see `morphseq_dagster/backends.py`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from morphseq_dagster.backends import Backend, BackendIdentity, Backends
from morphseq_dagster.detection.parameters import ClassicalDetectorSettings, GroundingDinoSettings

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

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


DETECTORS: Final[Backends[Detector]] = Backends(
    "gdino_raw.backend",
    Backend(
        "classical",
        "Finds chorions and bodies by their outlines; needs no weights.",
        parameters=ClassicalDetectorSettings,
        loader="morphseq_dagster.detection.classical:ClassicalDetector",
    ),
    Backend(
        "groundingdino",
        "GroundingDINO, from its own package.",
        parameters=GroundingDinoSettings,
        weights="gdino",
        needs="a GroundingDINO checkpoint (.pth), its configuration and a text encoder folder",
    ),
    Backend(
        "hf_groundingdino",
        "GroundingDINO, in the Hugging Face format.",
        parameters=GroundingDinoSettings,
        weights="gdino",
        needs="a GroundingDINO model folder in the Hugging Face format",
    ),
)
