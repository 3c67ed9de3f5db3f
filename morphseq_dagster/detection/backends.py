"""The registry of detectors: a name gives a detector or an error, never another detector.

Holds the names. Does not hold settings of the machine, such as where weights lie.
"""

from __future__ import annotations

from collections.abc import Callable

from morphseq_dagster.detection.classical import ClassicalDetector
from morphseq_dagster.detection.model import Detector
from morphseq_dagster.errors import PermanentError
from morphseq_dagster.recipes.detection import ClassicalDetectorSettings

_BUILT: dict[str, Callable[[ClassicalDetectorSettings], Detector]] = {
    "classical": lambda settings: ClassicalDetector(settings=settings),
}
_NEED_WEIGHTS: dict[str, str] = {
    "groundingdino": "a GroundingDINO checkpoint (.pth), its configuration and a text encoder folder",
    "hf_groundingdino": "a GroundingDINO model folder in the Hugging Face format",
}
DETECTOR_NAMES: tuple[str, ...] = tuple(sorted(_BUILT) + sorted(_NEED_WEIGHTS))
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
    if name in _BUILT:
        return _BUILT[name](settings or ClassicalDetectorSettings())
    if name in _NEED_WEIGHTS:
        raise PermanentError(
            expected=f"{_NEED_WEIGHTS[name]}, and a version of this package with model support",
            found=f"this version, which cannot load the backend {name!r}",
            where="recipe, detection backend",
            remedy='set the detection backend to "classical"; model backends come with the extra `models`',
        )
    raise PermanentError(
        expected=f"one of {', '.join(DETECTOR_NAMES)}",
        found=repr(name),
        where="recipe, detection backend",
        remedy="correct the name of the backend in the recipe",
    )
