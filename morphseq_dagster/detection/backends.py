"""The registry of detectors: a name gives a detector or an error, never another detector.

Holds the names. Does not hold settings of the machine, such as where weights lie.
"""

from __future__ import annotations

from typing import Final

from morphseq_dagster.backends import refuse_backend
from morphseq_dagster.detection.classical import ClassicalDetector
from morphseq_dagster.detection.model import Detector
from morphseq_dagster.detection.parameters import ClassicalDetectorSettings

_CLASSICAL: Final = "classical"
_NEED_WEIGHTS: Final = {
    "groundingdino": "a GroundingDINO checkpoint (.pth), its configuration and a text encoder folder",
    "hf_groundingdino": "a GroundingDINO model folder in the Hugging Face format",
}
DETECTOR_NAMES: tuple[str, ...] = (_CLASSICAL, *sorted(_NEED_WEIGHTS))
"""All names that a recipe may use, whether or not this version can load them."""


def load_detector(name: str, *, settings: ClassicalDetectorSettings | None = None) -> Detector:
    """Load the detector of a name.

    Parameters
    ----------
    name
        One of `DETECTOR_NAMES`.
    settings
        Thresholds of the classical detector; the defaults when None.

    Raises
    ------
    PermanentError
        When the name is unknown or its backend cannot be loaded here. There is no fallback: the backend is part
        of the result's meaning.
    """
    if name != _CLASSICAL:
        raise refuse_backend(name, room="detection", known=DETECTOR_NAMES, need_weights=_NEED_WEIGHTS)
    return ClassicalDetector(settings=settings or ClassicalDetectorSettings())
