"""Documents of earlier steps, made by hand for the test of a later one: frames, segmentations, label pictures.

The builders fill in what a test does not care about; the test states what it does care about.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from morphseq_dagster.engine.tables.image_set import FileEntry
from morphseq_dagster.identifiers import mint_embryo, mint_image, mint_snip, mint_video
from morphseq_dagster.imaging.pictures import encode_jpeg, encode_png
from morphseq_dagster.morphseq.contracts.entities import Entities, track
from morphseq_dagster.morphseq.contracts.exported_masks import ExportedMasks, MaskExport
from morphseq_dagster.morphseq.contracts.ff_images import FfImages, FrameEntry
from morphseq_dagster.morphseq.contracts.organized_frames import ImageEntry, OrganizedFrames
from morphseq_dagster.morphseq.contracts.qc_masks import MODELS, ModelState, QcMasks
from morphseq_dagster.morphseq.contracts.segmentations import (
    EmbryoEntry,
    ExperimentSegmentation,
    ImageSegmentation,
    SegmentationDocument,
    SegmentationEntry,
    VideoSegmentation,
)
from morphseq_dagster.segmentation.label_image import draw_label_image
from morphseq_dagster.segmentation.model import measure_mask_box
from morphseq_dagster.segmentation.rle import encode
from morphseq_dagster.testing.step_bench import StepBench

Mask = NDArray[np.bool_]
Masks = Mapping[str, Mapping[int, Mapping[int, Mask]]]
"""Well to frame number to embryo number to mask."""


def make_frame(
    well: str,
    time_int: int,
    *,
    time_s: float | None = 0.0,
    um_per_px: float | None = 2.0,
    channel: int = 0,
    height_px: int = 40,
    width_px: int = 60,
    path: str | None = None,
) -> FrameEntry:
    """One frame of `ff_images`; raw field and picture have the same size."""
    return FrameEntry(
        well=well,
        time_int=time_int,
        channel=channel,
        path=path or f"ff/{well}_t{time_int:04d}_ch{channel:02d}_stitch.jpg",
        height_px=height_px,
        width_px=width_px,
        raw_height_px=height_px,
        raw_width_px=width_px,
        um_per_px=um_per_px,
        time_s=time_s,
        objective=None,
        channel_name=None,
        sources={},
    )


def make_ff_images(
    experiment: str,
    frames: tuple[FrameEntry, ...],
    *,
    files: Mapping[str, FileEntry] | None = None,
    polarity: Literal["as_acquired", "inverted"] = "as_acquired",
) -> FfImages:
    """Manifest of `ff_images`."""
    return FfImages(
        experiment_id=experiment,
        files=dict(files or {}),
        microscope="Frames",
        polarity=polarity,
        frames=frames,
        failed_wells={},
        also_read={},
        problems=(),
    )


def lay_frames(
    bench: StepBench,
    pictures: Mapping[str, Mapping[int, NDArray[np.uint8]]],
    *,
    um_per_px: float | None = 2.0,
    time_step_s: float = 1800.0,
    polarity: Literal["as_acquired", "inverted"] = "as_acquired",
) -> OrganizedFrames:
    """Write pictures (well to frame number to (H, W) uint8) as organised frames and supply their manifest."""
    files: dict[str, FileEntry] = {}
    images: dict[str, ImageEntry] = {}
    for well, by_time in pictures.items():
        for index, (time_int, pixels) in enumerate(sorted(by_time.items())):
            image_id = mint_image(bench.experiment, well=well, frame=time_int)
            folder = bench.layout.folders("organized_frames", experiment=bench.experiment)[0]
            video = folder / "images" / mint_video(bench.experiment, well=well)
            path, entry = bench.supply_picture(video / f"{image_id}.jpg", encode_jpeg(pixels, quality=100))
            files[path] = entry
            images[image_id] = ImageEntry(
                path=path,
                well=well,
                time_int=time_int,
                channel=0,
                frame_index=index,
                height_px=pixels.shape[0],
                width_px=pixels.shape[1],
                um_per_px=um_per_px,
                time_s=time_int * time_step_s,
            )
    manifest = OrganizedFrames(
        experiment_id=bench.experiment, files=files, microscope="Frames", polarity=polarity, images=images
    )
    bench.supply("organized_frames", manifest)
    return manifest


def make_segmentation(
    experiment: str,
    masks: Masks,
    *,
    seed_frame: int = 0,
    failed: Mapping[str, str] | None = None,
    flags: Mapping[str, object] | None = None,
    mask_target: Literal["body", "chorion"] = "body",
) -> SegmentationDocument:
    """Segmentation of masks given by well, frame number and embryo number; `failed` names wells with their reason."""
    videos = {}
    for well, by_time in masks.items():
        images = {}
        for index, (time_int, by_number) in enumerate(sorted(by_time.items())):
            image_id = mint_image(experiment, well=well, frame=time_int)
            embryos = {}
            for number, mask in sorted(by_number.items()):
                embryo_id = mint_embryo(experiment, well=well, number=number)
                text, box = encode(mask).to_base64(), measure_mask_box(mask)
                embryos[embryo_id] = EmbryoEntry(
                    embryo_id=embryo_id,
                    snip_id=mint_snip(embryo_id, frame=time_int),
                    segmentation=SegmentationEntry(
                        size=(mask.shape[0], mask.shape[1]), counts=text, data=text, area=float(mask.sum()), bbox=box
                    ),
                    bbox=box,
                    mask_confidence=0.75,
                    mask_target=mask_target,
                )
            images[image_id] = ImageSegmentation(
                image_id=image_id, frame_index=index, is_seed_frame=time_int == seed_frame, embryos=embryos
            )
        videos[mint_video(experiment, well=well)] = VideoSegmentation(
            video_id=mint_video(experiment, well=well),
            well_id=well,
            num_embryos=len({number for by_number in by_time.values() for number in by_number}),
            frames_processed=len(images),
            sam2_success=True,
            image_ids=images,
        )
    for well, reason in (failed or {}).items():
        video_id = mint_video(experiment, well=well)
        videos[video_id] = VideoSegmentation(video_id=video_id, well_id=well, sam2_success=False, error_message=reason)
    entries = [e for v in videos.values() for i in v.image_ids.values() for e in i.embryos.values()]
    return SegmentationDocument(
        gsam_id="gsam_test",
        seed_annotations_path="",
        target_prompt="individual embryo",
        experiments={experiment: ExperimentSegmentation(experiment_id=experiment, videos=videos)},
        entity_tracker=track(
            "module_2_segmentation",
            experiment=experiment,
            videos=videos,
            images=[i for v in videos.values() for i in v.image_ids],
            embryos=[e.embryo_id for e in entries],
            snips=[e.snip_id for e in entries],
        ),
        flags=dict(flags or {}),
    )


def lay_masks(bench: StepBench, segmentation: SegmentationDocument, masks: Masks) -> ExportedMasks:
    """Write the label pictures of a segmentation and supply segmentation and manifest."""
    folder: Path = bench.layout.folders("exported_masks", experiment=bench.experiment)[0] / "masks"
    files: dict[str, FileEntry] = {}
    exports: dict[str, MaskExport] = {}
    for well, by_time in masks.items():
        for time_int, by_number in by_time.items():
            if not by_number:
                continue
            image_id = mint_image(bench.experiment, well=well, frame=time_int)
            first = next(iter(by_number.values()))
            shape = (first.shape[0], first.shape[1])
            labels = draw_label_image(sorted(by_number.items()), shape=shape)
            name = f"{image_id}_masks_emnum_{len(by_number)}.png"
            path, entry = bench.supply_picture(folder / name, encode_png(labels, compression=6))
            files[path] = entry
            exports[image_id] = MaskExport(
                image_id=image_id,
                output_path=path,
                embryo_count=len(by_number),
                source_file="",
                image_shape=shape,
            )
    tracked = segmentation.entity_tracker.entities
    manifest = ExportedMasks(
        experiment_id=bench.experiment,
        files=files,
        entity_tracking=Entities(**tracked.model_dump()),
        exports=exports,
        total_exported=len(exports),
    )
    bench.supply("sam2_segmentations", segmentation)
    bench.supply("exported_masks", manifest)
    return manifest


def make_qc_masks(experiment: str) -> QcMasks:
    """The document that says that there are no QC masks."""
    states = {name: ModelState(status="unavailable", reason="no weights were given") for name in MODELS}
    return QcMasks(experiment_id=experiment, status="unavailable", models=states)


def draw_block(shape: tuple[int, int], *, rows: tuple[int, int], columns: tuple[int, int]) -> Mask:
    """Mask of a filled rectangle; half-open ranges."""
    mask = np.zeros(shape, dtype=np.bool_)
    mask[slice(*rows), slice(*columns)] = True
    return mask
