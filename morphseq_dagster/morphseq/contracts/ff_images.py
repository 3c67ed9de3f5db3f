"""Manifest of the full-focus frames: one entry per well and time with geometry, time and the raw files read."""

from __future__ import annotations

from typing import Literal

from pydantic import ConfigDict, Field

from morphseq_dagster.engine.tables.document import DocumentPart
from morphseq_dagster.morphseq.contracts.grey_pictures import GreyPictures


class TilePlacement(DocumentPart):
    """Place of one tile in the raw mosaic in pixels, where it comes from, and how well the overlap agreed.

    `source` is "measured" on the frame itself, "plate" for the median step of the plate's frames that measured it,
    "prior" for the nominal overlap, "reference" for the first tile.
    """

    row_px: float
    column_px: float
    source: str
    ncc: float | None = None


class FrameEntry(DocumentPart):
    """One frame: identity, file, geometry in pixels and micrometres, time in seconds, raw files with their hashes."""

    well: str
    time_int: int = Field(ge=0)
    channel: int = Field(ge=0)
    path: str
    height_px: int = Field(gt=0)
    width_px: int = Field(gt=0)
    raw_height_px: int = Field(gt=0)
    raw_width_px: int = Field(gt=0)
    um_per_px: float | None = Field(gt=0)
    time_s: float | None
    objective: str | None
    channel_name: str | None
    sources: dict[str, str]
    tiles: tuple[TilePlacement, ...] = ()


class FfImages(GreyPictures):
    """Full-focus frames of one experiment; `failed_wells` says which wells are not among them and why.

    `also_read` holds raw files that were read and belong to no frame here (the table of frames, files of failed wells)
    with their hashes; blank where the file changed meanwhile.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    microscope: str
    polarity: Literal["as_acquired", "inverted"]
    frames: tuple[FrameEntry, ...]
    failed_wells: dict[str, str]
    also_read: dict[str, str]
    problems: tuple[str, ...]

    def shape_of(self, path: str) -> tuple[int, int] | None:
        """Height and width in pixels of a picture; None when it is not listed."""
        return next(((f.height_px, f.width_px) for f in self.frames if f.path == path), None)
