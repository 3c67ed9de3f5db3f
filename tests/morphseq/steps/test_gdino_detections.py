"""The filter of detections: confidence, overlap, and both shapes of the document (spec 1.7, 3.1)."""

from __future__ import annotations

import json

from morphseq_dagster.morphseq.contracts.detections import (
    Annotation,
    DetectionDocument,
    DetectionEntry,
    ImageDetections,
    ModelMetadata,
)
from morphseq_dagster.morphseq.contracts.entities import track
from morphseq_dagster.testing.step_bench import StepBench, read_document

EXPERIMENT = "20250529_ctrl"
Box = tuple[float, float, float, float]
# Unit squares of side 0.2; SHIFTED overlaps LEFT by 0.15 of 0.25 in union: IoU 0.6. NEAR: 0.1 of 0.3, IoU 1/3.
LEFT: Box = (0.1, 0.1, 0.3, 0.3)
SHIFTED: Box = (0.15, 0.1, 0.35, 0.3)
NEAR: Box = (0.2, 0.1, 0.4, 0.3)
FAR: Box = (0.6, 0.6, 0.8, 0.8)


def supply(
    bench: StepBench, images: dict[str, list[tuple[Box, float]]], *, failed: dict[str, str] | None = None
) -> None:
    entries = {}
    for name, found in images.items():
        detections = tuple(DetectionEntry(box_xyxy=b, confidence=c, phrase="individual embryo") for b, c in found)
        annotation = Annotation(
            annotation_id="ann_x",
            prompt="individual embryo",
            model_metadata=ModelMetadata(model_architecture="classical"),
            inference_params={},
            num_detections=len(detections),
            detections=detections,
        )
        entries[f"{EXPERIMENT}_A01_ch00_{name}"] = ImageDetections(annotations=(annotation,))
    bench.supply(
        "gdino_raw",
        DetectionDocument(
            images=entries, failed_wells=failed or {}, entity_tracker=track("module_2_detection", experiment=EXPERIMENT)
        ),
    )


def run(bench: StepBench, **recipe: float) -> dict[str, list[tuple[Box, float]]]:
    document = read_document(bench.run("gdino_detections", recipe=recipe), DetectionDocument)
    filtered = document.high_quality_annotations[EXPERIMENT].filtered
    return {image_id[-5:]: [(e.box_xyxy, e.confidence) for e in found] for image_id, found in filtered.items()}


def test_detections_below_the_threshold_are_dropped_and_those_on_it_are_kept(bench: StepBench) -> None:
    supply(bench, {"t0000": [(LEFT, 0.45), (FAR, 0.449)]})
    assert run(bench) == {"t0000": [(LEFT, 0.45)]}


def test_of_overlapping_boxes_the_more_confident_one_is_kept(bench: StepBench) -> None:
    supply(bench, {"t0000": [(LEFT, 0.6), (SHIFTED, 0.9), (FAR, 0.7)]})
    assert run(bench) == {"t0000": [(SHIFTED, 0.9), (FAR, 0.7)]}


def test_boxes_that_overlap_less_than_the_limit_are_both_kept(bench: StepBench) -> None:
    supply(bench, {"t0000": [(LEFT, 0.9), (NEAR, 0.8)]})
    assert run(bench) == {"t0000": [(LEFT, 0.9), (NEAR, 0.8)]}
    assert run(bench, iou_threshold=0.3) == {"t0000": [(LEFT, 0.9)]}


def test_picture_without_a_kept_detection_is_absent_from_the_filtered_ones_alone(bench: StepBench) -> None:
    supply(bench, {"t0000": [(LEFT, 0.9)], "t0001": [], "t0002": [(LEFT, 0.1)]})
    result = bench.run("gdino_detections")
    document = read_document(result, DetectionDocument)
    assert len(document.images) == 3
    assert [i[-5:] for i in document.high_quality_annotations[EXPERIMENT].filtered] == ["t0000"]
    assert result.staged.counts == {"images": 3, "images_without_detection": 2, "detections": 1}


def test_document_has_the_older_shape_and_the_flat_one(bench: StepBench) -> None:
    supply(bench, {"t0000": [(LEFT, 0.9), (FAR, 0.2)]})
    data = json.loads(bench.run("gdino_detections").staged.staged_primary.read_bytes())
    image = data["images"][f"{EXPERIMENT}_A01_ch00_t0000"]
    assert [d["confidence"] for d in image["annotations"][0]["detections"]] == [0.9, 0.2]
    assert image["detections"] == [{"bbox_xyxy_norm": list(LEFT), "score": 0.9, "prompt": "individual embryo"}]
    quality = data["high_quality_annotations"][EXPERIMENT]
    assert set(quality) == {"prompt", "confidence_threshold", "iou_threshold", "timestamp", "filtered"}
    assert (quality["confidence_threshold"], quality["iou_threshold"], quality["timestamp"]) == (0.45, 0.5, None)


def test_failed_wells_are_carried_over(bench: StepBench) -> None:
    supply(bench, {"t0000": []}, failed={"B02": "no such file"})
    document = read_document(bench.run("gdino_detections"), DetectionDocument)
    assert document.failed_wells == {"B02": "no such file"}
