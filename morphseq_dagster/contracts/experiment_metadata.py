"""Experiment metadata: videos and images of an experiment with frame geometry and plate values (spec 1.6)."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from morphseq_dagster.contracts.document import DocumentPart
from morphseq_dagster.contracts.entities import EntityTracker

SCRIPT_VERSION = "Module_0_Simplified"
"""What readers of these documents expect as the writer's name."""


class FileInfo(DocumentPart):
    """Header of a document; times stay null so that equal input gives equal bytes."""

    creation_time: None = None
    last_updated: None = None
    script_version: str = SCRIPT_VERSION


class ImageInfo(DocumentPart):
    """One image: place in the video, the frame's row of the frame table under both spellings, its file."""

    frame_index: int = Field(ge=0)
    raw_image_data_info: dict[str, Any]
    processed_image_path: str


class VideoInfo(DocumentPart):
    """One well: frames and plate values; paths are relative to the data root, `well_id` is the local well here."""

    video_id: str
    well_id: str
    mp4_path: str | None = None
    processed_jpg_images_dir: str
    total_frames: int
    image_size: tuple[int, int]
    source_well_metadata_csv: str
    medium: str | None
    genotype: str | None
    chem_perturbation: str | None
    start_age_hpf: float | None
    embryos_per_well: float | None
    temperature: float | None
    well_qc_flag: str | None
    image_ids: dict[str, ImageInfo]


class ExperimentInfo(DocumentPart):
    """One experiment."""

    experiment_id: str
    videos: dict[str, VideoInfo]


class ExperimentMetadata(DocumentPart):
    """The document; holds exactly one experiment."""

    file_info: FileInfo = FileInfo()
    experiments: dict[str, ExperimentInfo]
    entity_tracker: EntityTracker
