"""The registry of segmenters: a name gives a segmenter or an error, never another segmenter.

Holds the names. Does not hold settings of the machine, such as where weights lie.
"""

from __future__ import annotations

from collections.abc import Callable

from morphseq_dagster.errors import PermanentError
from morphseq_dagster.recipes.segmentation import ClassicalSegmenterSettings
from morphseq_dagster.segmentation.classical import ClassicalSegmenter
from morphseq_dagster.segmentation.model import Segmenter

_BUILT: dict[str, Callable[[ClassicalSegmenterSettings], Segmenter]] = {
    "classical": lambda settings: ClassicalSegmenter(settings=settings),
}
_NEED_WEIGHTS: dict[str, str] = {
    "sam2": "a SAM 2 checkpoint (.pt) and the name of its configuration",
    "hf_sam2": "a SAM 2 model folder in the Hugging Face format",
}
SEGMENTER_NAMES: tuple[str, ...] = tuple(sorted(_BUILT) + sorted(_NEED_WEIGHTS))
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
    if name in _BUILT:
        return _BUILT[name](settings or ClassicalSegmenterSettings())
    if name in _NEED_WEIGHTS:
        raise PermanentError(
            expected=f"{_NEED_WEIGHTS[name]}, and a version of this package with model support",
            found=f"this version, which cannot load the backend {name!r}",
            where="recipe, segmentation backend",
            remedy='set the segmentation backend to "classical"; model backends come with the extra `models`',
        )
    raise PermanentError(
        expected=f"one of {', '.join(SEGMENTER_NAMES)}",
        found=repr(name),
        where="recipe, segmentation backend",
        remedy="correct the name of the backend in the recipe",
    )
