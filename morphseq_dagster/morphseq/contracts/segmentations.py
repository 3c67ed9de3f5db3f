"""Segmentation documents: masks by video, image and embryo, and their quality flags (spec 1.8)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Literal

from pydantic import Field

from morphseq_dagster.engine.tables.document import DocumentPart
from morphseq_dagster.errors import ContractError, MorphseqError
from morphseq_dagster.morphseq.contracts.detections import BoxNorm, DetectionEntry
from morphseq_dagster.morphseq.contracts.entities import Entities, EntityTracker

_LISTED: Final = 20


class SegmentationEntry(DocumentPart):
    """One mask: COCO run lengths in base64, under both spellings (`counts` and R13's `data`)."""

    format: Literal["rle"] = "rle"
    size: tuple[int, int]
    counts: str
    data: str
    area: float = Field(ge=0)
    bbox: BoxNorm


class EmbryoEntry(DocumentPart):
    """One embryo in one image; `mask_target` says whether the mask covers the body or only its chorion."""

    embryo_id: str
    snip_id: str
    segmentation: SegmentationEntry
    bbox: BoxNorm
    mask_confidence: float = Field(ge=0, le=1)
    mask_target: Literal["body", "chorion"]


class ImageSegmentation(DocumentPart):
    """Embryos of one image; one that was not found is absent."""

    image_id: str
    frame_index: int = Field(ge=0)
    is_seed_frame: bool
    embryos: dict[str, EmbryoEntry]


class SeedFrameInfo(DocumentPart):
    """The frame that fixed number and identity of the embryos."""

    video_id: str
    seed_frame: str
    seed_frame_index: int
    num_embryos: int
    seed_detections: tuple[DetectionEntry, ...]
    is_first_frame: bool
    embryo_ids: tuple[str, ...]
    requires_bidirectional_propagation: bool
    bbox_format: Literal["xyxy"] = "xyxy"
    bbox_units: Literal["normalised"] = "normalised"


class VideoSegmentation(DocumentPart):
    """One well: its embryos through time, or why there are none.

    A well in which nothing was detected is a success without a seed frame; a failed one has an error message.
    """

    video_id: str
    well_id: str
    num_embryos: int = 0
    frames_processed: int = 0
    sam2_success: bool
    processing_timestamp: None = None
    error_message: str | None = None
    requires_bidirectional_propagation: bool = False
    seed_frame_info: SeedFrameInfo | None = None
    image_ids: dict[str, ImageSegmentation] = Field(default_factory=dict)


class ExperimentSegmentation(DocumentPart):
    """One experiment."""

    experiment_id: str
    first_processed_time: None = None
    last_processed_time: None = None
    videos: dict[str, VideoSegmentation]


class SegmentationDocument(DocumentPart):
    """Masks of one experiment; `flags` is filled by `sam2_segmentations`. Paths are relative to the data root.

    `target_prompt` is what the detector was asked for; null where it takes no prompt.
    """

    script_version: str = "morphseq_dagster"
    creation_time: None = None
    last_updated: None = None
    gsam_id: str
    seed_annotations_path: str
    experiment_metadata_path: str | None = None
    target_prompt: str | None
    segmentation_format: Literal["rle"] = "rle"
    device: str | None = None
    experiments: dict[str, ExperimentSegmentation]
    entity_tracker: EntityTracker
    flags: dict[str, Any] = Field(default_factory=dict)

    def check_content(self, *, where: str) -> None:
        """Check that the run lengths of every mask fill its picture.

        Raises
        ------
        ContractError
            Naming the masks that do not.
        """
        images = (i for e in self.experiments.values() for v in e.videos.values() for i in v.image_ids.values())
        embryos = (embryo for image in images for embryo in image.embryos.values())
        problems = [f"{embryo.snip_id}: {problem}" for embryo in embryos if (problem := _problem_of_mask(embryo))]
        if problems:
            raise ContractError(
                expected="masks whose run lengths fill the picture",
                found=f"{len(problems)} problems: " + "; ".join(problems[:_LISTED]),
                where=where,
                remedy="restore the document or make it again",
            )


def list_entities(experiment: str, images: Sequence[ImageSegmentation]) -> Entities:
    """List the ids of an experiment's images, and of what was found in them."""
    embryos = [embryo for image in images for embryo in image.embryos.values()]
    return Entities(
        experiments=(experiment,),
        videos=tuple(sorted({e.embryo_id.rpartition("_e")[0] for e in embryos})),
        images=tuple(sorted(image.image_id for image in images)),
        embryos=tuple(sorted({e.embryo_id for e in embryos})),
        snips=tuple(sorted(e.snip_id for e in embryos)),
    )


def _problem_of_mask(embryo: EmbryoEntry) -> str:
    """Say why a mask does not fill its picture; empty when it does."""
    from morphseq_dagster.segmentation.rle import Rle, unpack_runs

    entry = embryo.segmentation
    try:
        filled = int(unpack_runs(Rle.from_base64(entry.counts, size=entry.size).counts).sum())
    except MorphseqError as error:
        return error.found
    return "" if filled == entry.size[0] * entry.size[1] else f"{filled} pixels"
