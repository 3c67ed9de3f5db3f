"""The segmenters, one entry each; `backends.py` of the package says what an entry is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from morphseq_dagster.backends import Backend, Backends
from morphseq_dagster.segmentation.parameters import ClassicalSegmenterSettings

if TYPE_CHECKING:
    from morphseq_dagster.segmentation.model import Segmenter

SEGMENTERS: Final[Backends[Segmenter]] = Backends(
    "sam2_tracks.backend",
    Backend(
        "classical",
        "Outlines bodies by darkness and edges and follows them by position; needs no weights.",
        parameters=ClassicalSegmenterSettings,
        loader="morphseq_dagster.segmentation.classical:ClassicalSegmenter",
    ),
    Backend(
        "sam2",
        "SAM 2, from its own package.",
        weights="sam2",
        needs="a SAM 2 checkpoint (.pt) and the name of its configuration",
    ),
    Backend(
        "hf_sam2",
        "SAM 2, in the Hugging Face format.",
        weights="sam2",
        needs="a SAM 2 model folder in the Hugging Face format",
    ),
)
