"""Experiment metadata: videos and images of an experiment with frame geometry and plate values (spec 1.6).

The step and the importer of older trees nest images into videos by the same function.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import Field

from morphseq_dagster.engine.tables.document import DocumentPart
from morphseq_dagster.identifiers import mint_video
from morphseq_dagster.morphseq.contracts.entities import EntityTracker, track
from morphseq_dagster.morphseq.contracts.organized_frames import ImageEntry

PLATE_TEXTS = ("medium", "genotype", "chem_perturbation", "well_qc_flag")
PLATE_NUMBERS = ("start_age_hpf", "embryos_per_well", "temperature")
"""Plate values of a video."""
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


def nest_videos(experiment: str, *, videos: Iterable[VideoInfo], images: Iterable[str]) -> ExperimentMetadata:
    """Make the document of one experiment from its videos and the ids of all its images."""
    by_id = {video.video_id: video for video in videos}
    return ExperimentMetadata(
        experiments={experiment: ExperimentInfo(experiment_id=experiment, videos=by_id)},
        entity_tracker=track("module_0_data_organization", experiment=experiment, videos=by_id, images=images),
    )


def nest_images(
    experiment: str,
    *,
    well: str,
    images: Mapping[str, ImageEntry],
    facts: Mapping[str, dict[str, Any]],
    plate: Mapping[str, Any],
    table: str,
    movie: str | None = None,
) -> VideoInfo:
    """Make the video of one well from its frames by image id, of which the first one's size and folder stand for all.

    `facts` are rows of the frame table by image id, `plate` holds values by the names of `PLATE_TEXTS` and
    `PLATE_NUMBERS`; the frame table and the movie are named relative to the data root.
    """
    first = next(iter(images.values()))
    return VideoInfo(
        video_id=mint_video(experiment, well=well),
        well_id=well,
        mp4_path=movie,
        processed_jpg_images_dir=first.path.rpartition("/")[0],
        total_frames=len(images),
        image_size=(first.height_px, first.width_px),
        source_well_metadata_csv=table,
        image_ids={
            image_id: ImageInfo(
                frame_index=entry.frame_index, raw_image_data_info=facts[image_id], processed_image_path=entry.path
            )
            for image_id, entry in images.items()
        },
        **plate,
    )
