"""Slices of the recipe: which parameters belong to which step; every parameter belongs to exactly one.

The parameters themselves stand in the `parameters.py` of the science's rooms, backends in their `backends.py`.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from morphseq_dagster.backends import BackendSlice
from morphseq_dagster.detection.backends import DETECTORS
from morphseq_dagster.imaging.parameters import FocusSettings
from morphseq_dagster.latents.backends import EMBEDDERS
from morphseq_dagster.morphometry.parameters import SnipSettings, ViabilitySettings
from morphseq_dagster.parameters import Parameters
from morphseq_dagster.quality.parameters import (
    DeathSettings,
    EmbryoFlagSettings,
    InferredStageSettings,
    MaskFlagSettings,
    PredictedStageSettings,
    SurfaceAreaSettings,
    UseEmbryoSettings,
)
from morphseq_dagster.segmentation.backends import SEGMENTERS


class WellSlice(Parameters):
    """Slice of a step that works well by well."""

    max_failed_share: float = Field(default=0.5, ge=0, le=1)
    """Share of failed wells above which the step fails instead of succeeding degraded."""


class FfImagesRecipe(WellSlice):
    """Full-focus frames."""

    focus: FocusSettings = FocusSettings()
    jpeg_quality: int = Field(default=95, ge=1, le=100)
    """Quality of frames that must be encoded; pictures that are grey JPEG already keep their bytes."""


class BuiltMetadataRecipe(Parameters):
    """Frame table."""

    default_temperature_c: float | None = Field(default=None, ge=0, le=50)
    """Temperature in degC of wells whose cell is blank; the column `temperature_source` then says `recipe`."""


class OrganizedFramesRecipe(WellSlice):
    """Organised frames."""


class GdinoRawRecipe(BackendSlice, WellSlice):
    """Detection."""

    backends: ClassVar = DETECTORS


class GdinoDetectionsRecipe(Parameters):
    """Filter of detections."""

    confidence_threshold: float = Field(default=0.45, ge=0, le=1)
    """Detections below are dropped (spec, orchestration 3.1)."""
    iou_threshold: float = Field(default=0.5, ge=0, le=1)
    """A box that overlaps a better one at least this much is dropped (spec, orchestration 3.1)."""


class Sam2TracksRecipe(BackendSlice, WellSlice):
    """Segmentation and tracking."""

    backends: ClassVar = SEGMENTERS


class Sam2SegmentationsRecipe(Parameters):
    """Flags of masks."""

    flags: MaskFlagSettings = MaskFlagSettings()
    """Limits of the flags."""


class ExportedMasksRecipe(WellSlice):
    """Label pictures."""


class QcMasksRecipe(Parameters):
    """QC masks of build02."""

    backend: Literal["unavailable"] = "unavailable"
    """The lab's weights are not public; consumers treat what needs them as unknown."""


class EmbryoMetadataRecipe(WellSlice):
    """Embryo table."""

    viability: ViabilitySettings = ViabilitySettings()
    """Classical viability measure."""
    flags: EmbryoFlagSettings = EmbryoFlagSettings()
    """Limits of the flags."""
    staging: PredictedStageSettings = PredictedStageSettings()
    """Predicted stage."""
    perturbation_naming: Literal["exact", "phenotype_background"] = "exact"
    """How genotypes are looked up in the lab's key (spec, science 6.5)."""


class SnipsRecipe(WellSlice):
    """Snips."""

    snip: SnipSettings = SnipSettings()
    """How a snip is cut."""
    jpeg_quality: int = Field(default=95, ge=1, le=100)
    """Quality of the pictures; masks are lossless."""
    background_frames: int = Field(default=100, ge=1)
    """Frames that tell the background's grey level (spec, science 5.5)."""


class QcStagedRecipe(Parameters):
    """Quality and stage."""

    death: DeathSettings = DeathSettings()
    """When an embryo counts as dying."""
    surface_area: SurfaceAreaSettings = SurfaceAreaSettings()
    """Limits of the area."""
    staging: InferredStageSettings = InferredStageSettings()
    """Stage from the area."""
    use_embryo: UseEmbryoSettings = UseEmbryoSettings()
    """Which rows to use."""


class LatentsRecipe(Parameters):
    """Latents."""

    model: str = Field(default=EMBEDDERS.default, pattern=r"^[0-9A-Za-z][0-9A-Za-z_.-]*$")
    """Model; names the folder of the table."""


class FinalRecipe(Parameters):
    """Final table."""

    rows: Literal["all", "usable"] = "all"
    """All rows with the decision beside them, or usable ones only (the lab's old rule)."""
