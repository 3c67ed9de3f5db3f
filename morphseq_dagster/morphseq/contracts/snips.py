"""Manifest of the snips: aligned pictures of embryos, and which embryos have none."""

from __future__ import annotations

from pydantic import ConfigDict, Field

from morphseq_dagster.engine.tables.document import DocumentPart
from morphseq_dagster.morphseq.contracts.grey_pictures import GreyPictures


class SnipEntry(DocumentPart):
    """One snip: its files and how it was cut."""

    embryo_id: str
    image_id: str
    well: str
    path: str
    uncropped_path: str
    mask_path: str
    out_of_frame: bool
    kept_share: float = Field(ge=0, le=1)
    angle_rad: float
    head_rule: str
    problem: str | None


class RefusedSnip(DocumentPart):
    """Why an embryo in a frame has no snip; `out_of_frame` is null where that cannot be known."""

    embryo_id: str
    image_id: str
    well: str
    reason: str
    out_of_frame: bool | None


class Snips(GreyPictures):
    """Snips of one experiment; latents depend on the recipe, hence its hash stands here and beside the latents."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    scale_um_per_px: float
    recipe_hash: str
    background_mean: float | None
    background_sd: float | None
    snips: dict[str, SnipEntry]
    refused: dict[str, RefusedSnip]
