"""Step `gdino_detections`: detections after confidence threshold and non-maximum suppression (spec 3.1).

The filter is `detection/filtering.py`.
"""

from __future__ import annotations

from morphseq_dagster.detection.backends import Detection
from morphseq_dagster.detection.filtering import filter_detections
from morphseq_dagster.engine.contract.context import Account, StepContext
from morphseq_dagster.engine.contract.step import StepResult
from morphseq_dagster.morphseq.contracts.detections import (
    DetectionDocument,
    DetectionEntry,
    FlatDetection,
    HighQuality,
    ImageDetections,
)
from morphseq_dagster.morphseq.recipes import GdinoDetectionsRecipe


def run(context: StepContext) -> StepResult:
    """Filter the detections of an experiment."""
    recipe = context.recipe(GdinoDetectionsRecipe)
    raw = context.document("gdino_raw", DetectionDocument)
    images, filtered = {}, {}
    prompts: set[str] = set()
    for image_id, image in raw.images.items():
        annotation = image.annotations[0]
        if annotation.prompt is not None:
            prompts.add(annotation.prompt)
        found = [Detection(d.box_xyxy, d.confidence, d.phrase) for d in annotation.detections]
        kept = filter_detections(found, confidence_min=recipe.confidence_threshold, iou_max=recipe.iou_threshold)
        flat = tuple(
            FlatDetection(bbox_xyxy_norm=d.box_xyxy, score=d.confidence, prompt=annotation.prompt) for d in kept
        )
        images[image_id] = ImageDetections(annotations=image.annotations, detections=flat)
        if kept:
            filtered[image_id] = tuple(
                DetectionEntry(box_xyxy=d.box_xyxy, confidence=d.confidence, phrase=d.phrase) for d in kept
            )
    quality = HighQuality(
        prompt=", ".join(sorted(prompts)) or None,
        confidence_threshold=recipe.confidence_threshold,
        iou_threshold=recipe.iou_threshold,
        filtered=filtered,
    )
    document = raw.model_copy(update={"images": images, "high_quality_annotations": {context.experiment: quality}})
    counts = {
        "images": len(images),
        "images_without_detection": len(images) - len(filtered),
        "detections": sum(len(entries) for entries in filtered.values()),
    }
    return context.stage_document(document, account=Account(counts=counts))
