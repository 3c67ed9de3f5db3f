"""Document of the QC masks (build02): which models ran; `unavailable` says that none could, and why."""

from __future__ import annotations

from typing import Literal

from morphseq_dagster.engine.tables.document import DocumentPart

MODELS = ("mask_v0_0100", "yolk_v1_0050", "focus_v0_0100", "bubble_v0_0100", "via_v1_0100")
"""The lab's five models (spec, science 4)."""


class ModelState(DocumentPart):
    """State of one model's masks."""

    status: Literal["unavailable"]
    reason: str


class QcMasks(DocumentPart):
    """QC masks of one experiment."""

    schema_version: int = 1
    experiment_id: str
    status: Literal["unavailable"]
    models: dict[str, ModelState]
