"""The detectors, one entry each; `backends.py` of the package says what an entry is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from morphseq_dagster.backends import Backend, Backends
from morphseq_dagster.detection.parameters import ClassicalDetectorSettings, GroundingDinoSettings

if TYPE_CHECKING:
    from morphseq_dagster.detection.model import Detector

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
