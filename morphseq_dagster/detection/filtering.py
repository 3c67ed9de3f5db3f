"""Quality filter of detections (spec 3.1): confidence limit, then greedy suppression of overlaps."""

from __future__ import annotations

from collections.abc import Iterable

from morphseq_dagster.detection.backends import Box, Detection

CONFIDENCE_MIN = 0.45
"""Default confidence limit, kept when equal (spec 3.1)."""
IOU_MAX = 0.5
"""Default overlap limit, dropped when equal (spec 3.1)."""


def measure_box_iou(a: Box, b: Box) -> float:
    """Intersection over union of two boxes x_min, y_min, x_max, y_max; 0 when they do not overlap."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    shared = width * height
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)


def order_detections(detections: Iterable[Detection]) -> tuple[Detection, ...]:
    """Sort by confidence, descending.

    Ties are broken by box (top to bottom, left to right) and phrase: the order of the input never shows.
    """
    return tuple(
        sorted(
            detections,
            key=lambda d: (
                -d.confidence,
                d.box_xyxy[1],
                d.box_xyxy[0],
                d.box_xyxy[3],
                d.box_xyxy[2],
                d.phrase,
            ),
        )
    )


def filter_detections(
    detections: Iterable[Detection], *, confidence_min: float = CONFIDENCE_MIN, iou_max: float = IOU_MAX
) -> tuple[Detection, ...]:
    """Keep confident detections that do not overlap a more confident one (spec 3.1); by confidence, descending.

    A detection of a frame is kept when its confidence is at least `confidence_min`, and dropped when its box overlaps a
    kept one by at least `iou_max`.
    """
    kept: list[Detection] = []
    for candidate in order_detections(detections):
        if candidate.confidence < confidence_min:
            break
        if all(measure_box_iou(candidate.box_xyxy, other.box_xyxy) < iou_max for other in kept):
            kept.append(candidate)
    return tuple(kept)
