"""Manifest of the exported label pictures (spec 1.9): made from what was written, with hashes."""

from __future__ import annotations

from pydantic import ConfigDict, Field

from morphseq_dagster.engine.tables.document import DocumentPart
from morphseq_dagster.morphseq.contracts.entities import Entities
from morphseq_dagster.morphseq.contracts.grey_pictures import GreyPictures


class MaskExport(DocumentPart):
    """One label picture: pixel k belongs to embryo number k."""

    image_id: str
    output_path: str
    embryo_count: int = Field(ge=1)
    export_timestamp: None = None
    source_file: str
    image_shape: tuple[int, int]


class ExportedMasks(GreyPictures):
    """Label pictures of one experiment by image id; `failed_wells` says which wells have none and why."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    entity_tracking: Entities
    exports: dict[str, MaskExport]
    failed_wells: dict[str, str] = Field(default_factory=dict)
    last_updated: None = None
    total_exported: int

    def shape_of(self, path: str) -> tuple[int, int] | None:
        """Height and width in pixels of a picture; None when it is not listed."""
        return next((e.image_shape for e in self.exports.values() if e.output_path == path), None)
