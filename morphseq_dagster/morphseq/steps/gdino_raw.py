"""Step `gdino_raw`: every detection of the chosen detector, well by well, before any filter.

Detectors are in `detection`. The thresholds of the filter are parameters of `gdino_detections`, so that changing them
costs no inference.
"""

from __future__ import annotations

from typing import Any

from morphseq_dagster.backends import BackendIdentity
from morphseq_dagster.detection.backends import DETECTORS, Detection
from morphseq_dagster.engine.contract.context import Account, StepContext
from morphseq_dagster.engine.contract.step import StepResult
from morphseq_dagster.engine.contract.wells import WellTask, map_wells
from morphseq_dagster.engine.storage.checkpoints import WellPayload
from morphseq_dagster.engine.storage.hashing import hash_json
from morphseq_dagster.engine.tables.document import parse_document
from morphseq_dagster.identifiers import mint_video
from morphseq_dagster.morphseq.contracts.detections import (
    Annotation,
    DetectionDocument,
    DetectionEntry,
    ImageDetections,
    ModelMetadata,
)
from morphseq_dagster.morphseq.contracts.entities import track
from morphseq_dagster.morphseq.contracts.organized_frames import ImageEntry, OrganizedFrames
from morphseq_dagster.morphseq.recipes import GdinoRawRecipe
from morphseq_dagster.morphseq.steps.image_sets import FrameReader
from morphseq_dagster.morphseq.steps.previews import choose, draw_masks, sheet


class _Inputs:
    """Frames of the experiment by well, and the detector that looks at them."""

    def __init__(self, context: StepContext) -> None:
        self.context = context
        self.recipe = context.recipe(GdinoRawRecipe)
        self.frames = context.document("organized_frames", OrganizedFrames)
        self.videos = self.frames.videos()
        self.detector = DETECTORS.load(self.recipe.backend, self.recipe.parameters, weights=context.weights)


def run(context: StepContext) -> StepResult:
    """Detect embryos in every frame of an experiment."""
    inputs = _Inputs(context)
    recipe, frames, videos = inputs.recipe, inputs.frames, inputs.videos
    published = _published(context)

    def restore(task: WellTask) -> WellPayload | None:
        try:
            found = {image_id: published[image_id] for image_id in videos[task.well]}
        except KeyError:
            return None
        return WellPayload({"detections": found}, {})

    tasks = [WellTask(well, frame_inputs(frames, images)) for well, images in videos.items()]
    done = map_wells(
        context,
        tasks=tasks,
        compute=_detect,
        load=_Inputs,
        state=inputs,
        restore=restore,
        max_failed_share=recipe.max_failed_share,
    )
    identity = inputs.detector.identity()
    images = {
        image_id: _image(context, image_id, found, recipe=recipe, identity=identity)
        for payload in done.payloads.values()
        for image_id, found in payload.data["detections"].items()
    }
    document = DetectionDocument(
        images=images,
        failed_wells={well: state.reason for well, state in done.states.items() if state.status == "failed"},
        entity_tracker=track(
            "module_2_detection",
            experiment=context.experiment,
            videos=[mint_video(context.experiment, well=well) for well in done.payloads],
            images=images,
        ),
    )
    total = sum(image.annotations[0].num_detections for image in images.values())
    account = Account(
        wells=done.states,
        counts={"images": len(images), "detections": total, "wells_computed": done.computed},
        backend=identity,
        preview=_preview(context, frames, document),
    )
    return context.stage_document(document, account=account)


def _detect(task: WellTask, inputs: _Inputs) -> WellPayload:
    """Detect embryos in the frames of one well."""
    found = {}
    for image_id, entry in inputs.videos[task.well].items():
        picture = FrameReader(inputs.context, inputs.frames, entry).read()
        detections = inputs.detector.detect(picture, um_per_px=entry.um_per_px)
        found[image_id] = [_entry(detection).model_dump(mode="json") for detection in detections]
    return WellPayload({"detections": found}, {})


def frame_inputs(frames: OrganizedFrames, images: dict[str, ImageEntry]) -> list[Any]:
    """Name everything that a well's result depends on: its pictures, their polarity and pixel size."""
    return [
        [image_id, frames.files[entry.path].sha256, frames.polarity, entry.um_per_px]
        for image_id, entry in images.items()
    ]


def _entry(detection: Detection) -> DetectionEntry:
    return DetectionEntry(box_xyxy=detection.box_xyxy, confidence=detection.confidence, phrase=detection.phrase)


def _image(
    context: StepContext,
    image_id: str,
    found: list[dict[str, Any]],
    *,
    recipe: GdinoRawRecipe,
    identity: BackendIdentity,
) -> ImageDetections:
    """One annotation per image; its id is derived from content, so that equal input gives equal bytes."""
    parameters = recipe.parameters.model_dump()
    digest = hash_json([image_id, context.request.recipe_hash, context.request.version])
    annotation = Annotation(
        annotation_id=f"ann_{digest[:16]}",
        prompt=parameters.get("prompt"),
        model_metadata=ModelMetadata(weights_sha256=identity.weights_sha256, model_architecture=identity.name),
        inference_params={name: parameters[name] for name in ("box_threshold", "text_threshold") if name in parameters},
        num_detections=len(found),
        detections=tuple(DetectionEntry.model_validate(entry) for entry in found),
    )
    return ImageDetections(annotations=(annotation,))


def _published(context: StepContext) -> dict[str, list[dict[str, Any]]]:
    """Detections of the published version by image."""
    data = context.published()
    if data is None:
        return {}
    document = parse_document(DetectionDocument, data, where=context.request.output)
    return {
        image_id: [entry.model_dump(mode="json") for entry in image.annotations[0].detections]
        for image_id, image in document.images.items()
    }


def _preview(context: StepContext, frames: OrganizedFrames, document: DetectionDocument) -> bytes | None:
    thumbnails = []
    for image_id in choose(sorted(document.images)):
        picture = FrameReader(context, frames, frames.images[image_id]).read_as_published()
        boxes = [entry.box_xyxy for entry in document.images[image_id].annotations[0].detections]
        thumbnails.append(draw_masks(picture, masks=(), boxes=boxes))
    return sheet(thumbnails)
