"""Manifest of the organised frames: pictures by image id, per well in time order, with pixel size and time."""

from __future__ import annotations

from typing import Literal

from pydantic import ConfigDict, Field

from morphseq_dagster.engine.tables.document import DocumentPart
from morphseq_dagster.morphseq.contracts.grey_pictures import GreyPictures


class ImageEntry(DocumentPart):
    """One image: its file, its place in the well's video and its geometry."""

    path: str
    well: str
    time_int: int = Field(ge=0)
    channel: int = Field(ge=0)
    frame_index: int = Field(ge=0)
    height_px: int = Field(gt=0)
    width_px: int = Field(gt=0)
    um_per_px: float | None = Field(gt=0)
    time_s: float | None


class OrganizedFrames(GreyPictures):
    """Frames of one experiment by image id, in order of well and time."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    microscope: str
    polarity: Literal["as_acquired", "inverted"]
    images: dict[str, ImageEntry]

    def videos(self) -> dict[str, dict[str, ImageEntry]]:
        """Images by well, in time order."""
        wells: dict[str, dict[str, ImageEntry]] = {}
        for image_id, entry in sorted(self.images.items(), key=lambda item: (item[1].well, item[1].frame_index)):
            wells.setdefault(entry.well, {})[image_id] = entry
        return wells

    def shape_of(self, path: str) -> tuple[int, int] | None:
        """Height and width in pixels of a picture; None when it is not listed."""
        return next(((e.height_px, e.width_px) for e in self.images.values() if e.path == path), None)
