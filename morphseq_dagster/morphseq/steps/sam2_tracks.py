"""Step `sam2_tracks`: masks of every embryo, tracked forward and backward from the seed frame, well by well.

Frames are segmented in `segmentation`; quality flags follow in `sam2_segmentations.py`.
"""

from __future__ import annotations

from typing import Any

from morphseq_dagster.detection.backends import Detection
from morphseq_dagster.engine.contract.context import Account, StepContext
from morphseq_dagster.engine.contract.step import StepResult
from morphseq_dagster.engine.contract.wells import WellTask, map_wells
from morphseq_dagster.engine.storage.checkpoints import WellPayload
from morphseq_dagster.engine.storage.hashing import hash_json
from morphseq_dagster.engine.tables.document import parse_document
from morphseq_dagster.identifiers import mint_embryo, mint_snip, mint_video, parse_image
from morphseq_dagster.morphseq.contracts.detections import DetectionDocument, DetectionEntry
from morphseq_dagster.morphseq.contracts.entities import track
from morphseq_dagster.morphseq.contracts.organized_frames import OrganizedFrames
from morphseq_dagster.morphseq.contracts.segmentations import (
    EmbryoEntry,
    ExperimentSegmentation,
    ImageSegmentation,
    SeedFrameInfo,
    SegmentationDocument,
    SegmentationEntry,
    VideoSegmentation,
)
from morphseq_dagster.morphseq.recipes import Sam2TracksRecipe
from morphseq_dagster.morphseq.steps.gdino_raw import frame_inputs
from morphseq_dagster.morphseq.steps.image_sets import FrameReader
from morphseq_dagster.morphseq.steps.previews import choose, draw_masks, sheet
from morphseq_dagster.segmentation.backends import SEGMENTERS
from morphseq_dagster.segmentation.model import TrackedMask, WellTracks
from morphseq_dagster.segmentation.rle import Rle, decode
from morphseq_dagster.segmentation.tracking import choose_seed


class _Inputs:
    """Frames and detections of the experiment, and the segmenter that follows the embryos in them."""

    def __init__(self, context: StepContext) -> None:
        self.context = context
        self.recipe = context.recipe(Sam2TracksRecipe)
        self.frames = context.document("organized_frames", OrganizedFrames)
        self.videos = self.frames.videos()
        self.detected = context.document("gdino_detections", DetectionDocument)
        self.segmenter = SEGMENTERS.load(self.recipe.backend, self.recipe.parameters, weights=context.weights)

    def detections(self, well: str) -> list[tuple[Detection, ...]]:
        """Detections in every frame of a well."""
        filtered = self.detected.high_quality_annotations[self.context.experiment].filtered
        return [
            tuple(Detection(d.box_xyxy, d.confidence, d.phrase) for d in filtered.get(image_id, ()))
            for image_id in self.videos[well]
        ]


def run(context: StepContext) -> StepResult:
    """Segment and track the embryos of an experiment."""
    inputs = _Inputs(context)
    frames, detected = inputs.frames, inputs.detected
    published = _published(context)

    def restore(task: WellTask) -> WellPayload | None:
        video = published.get(mint_video(context.experiment, well=task.well))
        return None if video is None else WellPayload({"video": video.model_dump(mode="json")}, {})

    tasks = [
        WellTask(
            well,
            [
                frame_inputs(frames, images),
                [[list(d.box_xyxy), d.confidence] for found in inputs.detections(well) for d in found],
            ],
        )
        for well, images in inputs.videos.items()
        if well not in detected.failed_wells
    ]
    done = map_wells(
        context,
        tasks=tasks,
        compute=_segment,
        load=_Inputs,
        state=inputs,
        restore=restore,
        max_failed_share=inputs.recipe.max_failed_share,
    )
    failed = dict(detected.failed_wells)
    failed |= {well: state.reason for well, state in done.states.items() if state.status == "failed"}
    result = {w: VideoSegmentation.model_validate(p.data["video"]) for w, p in done.payloads.items()}
    result |= {well: _failed_video(context, well=well, reason=reason) for well, reason in failed.items()}
    by_video = {video.video_id: video for _, video in sorted(result.items())}
    document = _document(context, by_video, prompt=detected.high_quality_annotations[context.experiment].prompt)
    account = Account(
        wells=done.states,
        counts={
            "videos": len(by_video),
            "embryos": len(document.entity_tracker.entities.embryos),
            "masks": len(document.entity_tracker.entities.snips),
            "wells_computed": done.computed,
        },
        backend=inputs.segmenter.identity(),
        warnings=tuple(f"well {well} has no detection" for well, v in result.items() if v.num_embryos == 0),
        preview=_preview(context, frames, document),
    )
    return context.stage_document(document, account=account)


def _segment(task: WellTask, inputs: _Inputs) -> WellPayload:
    """Segment and track the embryos of one well."""
    context, images = inputs.context, inputs.videos[task.well]
    sources = [FrameReader(context, inputs.frames, entry) for entry in images.values()]
    scale = next(iter(images.values())).um_per_px
    detections = inputs.detections(task.well)
    tracks = inputs.segmenter.segment(sources, detections=detections, um_per_px=scale)
    video = _video(context, well=task.well, image_ids=list(images), tracks=tracks, detections=detections)
    return WellPayload({"video": video.model_dump(mode="json")}, {})


def _document(
    context: StepContext, videos: dict[str, VideoSegmentation], *, prompt: str | None
) -> SegmentationDocument:
    images = [image for video in videos.values() for image in video.image_ids.values()]
    embryos = [embryo for image in images for embryo in image.embryos.values()]
    content = hash_json({video_id: video.model_dump(mode="json") for video_id, video in videos.items()})
    return SegmentationDocument(
        # An id from content: the same masks from another request are the same document, and nothing after it runs.
        gsam_id=f"gsam_{content[:12]}",
        seed_annotations_path=context.input("gdino_detections").path,
        target_prompt=prompt,
        experiments={context.experiment: ExperimentSegmentation(experiment_id=context.experiment, videos=videos)},
        entity_tracker=track(
            "module_2_segmentation",
            experiment=context.experiment,
            videos=videos,
            images=[image.image_id for image in images],
            embryos=[embryo.embryo_id for embryo in embryos],
            snips=[embryo.snip_id for embryo in embryos],
        ),
    )


def _video(
    context: StepContext,
    *,
    well: str,
    image_ids: list[str],
    tracks: WellTracks,
    detections: list[tuple[Detection, ...]],
) -> VideoSegmentation:
    video_id = mint_video(context.experiment, well=well)
    images = {}
    for index, (image_id, masks) in enumerate(zip(image_ids, tracks.frames, strict=True)):
        entries = [_embryo(context, well=well, image_id=image_id, mask=mask) for mask in masks]
        images[image_id] = ImageSegmentation(
            image_id=image_id,
            frame_index=index,
            is_seed_frame=index == tracks.seed_index,
            embryos={entry.embryo_id: entry for entry in entries},
        )
    return VideoSegmentation(
        video_id=video_id,
        well_id=well,
        num_embryos=tracks.num_embryos,
        frames_processed=len(image_ids),
        sam2_success=True,
        requires_bidirectional_propagation=tracks.bidirectional,
        seed_frame_info=_seed_info(context, well=well, image_ids=image_ids, tracks=tracks, detections=detections),
        image_ids=images,
    )


def _seed_info(
    context: StepContext,
    *,
    well: str,
    image_ids: list[str],
    tracks: WellTracks,
    detections: list[tuple[Detection, ...]],
) -> SeedFrameInfo | None:
    seed = choose_seed(detections)
    if tracks.seed_index is None or seed is None:
        return None
    numbers = range(1, tracks.num_embryos + 1)
    return SeedFrameInfo(
        video_id=mint_video(context.experiment, well=well),
        seed_frame=image_ids[tracks.seed_index],
        seed_frame_index=tracks.seed_index,
        num_embryos=tracks.num_embryos,
        seed_detections=tuple(
            DetectionEntry(box_xyxy=d.box_xyxy, confidence=d.confidence, phrase=d.phrase) for d in seed.detections
        ),
        is_first_frame=tracks.seed_index == 0,
        embryo_ids=tuple(mint_embryo(context.experiment, well=well, number=n) for n in numbers),
        requires_bidirectional_propagation=tracks.bidirectional,
    )


def _embryo(context: StepContext, *, well: str, image_id: str, mask: TrackedMask) -> EmbryoEntry:
    embryo_id = mint_embryo(context.experiment, well=well, number=mask.embryo_number)
    text = mask.rle.to_base64()
    return EmbryoEntry(
        embryo_id=embryo_id,
        snip_id=mint_snip(embryo_id, frame=parse_image(image_id).frame),
        segmentation=SegmentationEntry(
            size=mask.rle.size, counts=text, data=text, area=float(mask.area_px), bbox=mask.box_xyxy
        ),
        bbox=mask.box_xyxy,
        mask_confidence=mask.confidence,
        mask_target=mask.mask_target,
    )


def _failed_video(context: StepContext, *, well: str, reason: str) -> VideoSegmentation:
    video_id = mint_video(context.experiment, well=well)
    return VideoSegmentation(video_id=video_id, well_id=well, sam2_success=False, error_message=reason)


def _published(context: StepContext) -> dict[str, VideoSegmentation]:
    """Videos of the published version."""
    data = context.published()
    if data is None:
        return {}
    document = parse_document(SegmentationDocument, data, where=context.request.output)
    return dict(document.experiments[context.experiment].videos)


def _preview(context: StepContext, frames: OrganizedFrames, document: SegmentationDocument) -> bytes | None:
    images: dict[str, Any] = {
        image_id: image
        for video in document.experiments[context.experiment].videos.values()
        for image_id, image in video.image_ids.items()
    }
    thumbnails = []
    for image_id in choose(sorted(images)):
        picture = FrameReader(context, frames, frames.images[image_id]).read_as_published()
        entries = [embryo.segmentation for embryo in images[image_id].embryos.values()]
        masks = [decode(Rle.from_base64(entry.counts, size=entry.size)) for entry in entries]
        thumbnails.append(draw_masks(picture, masks=masks, boxes=()))
    return sheet(thumbnails)
