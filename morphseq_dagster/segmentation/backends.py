"""The registry of segmenters: a name gives a segmenter or an error, never another segmenter.

Holds the names. Does not hold settings of the machine, such as where weights lie.
"""

from __future__ import annotations

from typing import Final

from morphseq_dagster.backends import refuse_backend
from morphseq_dagster.segmentation.classical import ClassicalSegmenter
from morphseq_dagster.segmentation.model import Segmenter
from morphseq_dagster.segmentation.parameters import ClassicalSegmenterSettings

_CLASSICAL: Final = "classical"
_NEED_WEIGHTS: Final = {
    "sam2": "a SAM 2 checkpoint (.pt) and the name of its configuration",
    "hf_sam2": "a SAM 2 model folder in the Hugging Face format",
}
SEGMENTER_NAMES: tuple[str, ...] = (_CLASSICAL, *sorted(_NEED_WEIGHTS))
"""All names that a recipe may use, whether or not this version can load them."""


def load_segmenter(name: str, *, settings: ClassicalSegmenterSettings | None = None) -> Segmenter:
    """Load the segmenter of a name.

    Parameters
    ----------
    name
        One of `SEGMENTER_NAMES`.
    settings
        Thresholds of the classical segmenter; the defaults when None.

    Raises
    ------
    PermanentError
        When the name is unknown or its backend cannot be loaded here. There is no fallback: the backend is part
        of the result's meaning.
    """
    if name != _CLASSICAL:
        raise refuse_backend(name, room="segmentation", known=SEGMENTER_NAMES, need_weights=_NEED_WEIGHTS)
    return ClassicalSegmenter(settings=settings or ClassicalSegmenterSettings())
