"""The seed frame of a well, from which its embryos are numbered and followed (spec 3.2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from morphseq_dagster.detection.backends import Detection
from morphseq_dagster.detection.filtering import order_detections

EARLY_SHARE = 0.2
"""Share of the frames with detections that counts as early (spec 3.2, step 2)."""
EARLY_SUFFICES = 0.8
"""Share of the best score at which an early frame is preferred (spec 3.2, step 2)."""


@dataclass(frozen=True)
class Seed:
    """Index of the seed frame and its detections in the order of embryo numbers (number 1 first)."""

    frame_index: int
    detections: tuple[Detection, ...]


def clip_detection(detection: Detection) -> Detection:
    """Clip a box to [0, 1]; detectors overshoot a little at the frame's edge (spec 3.2, step 4)."""
    x0, y0, x1, y1 = (min(1.0, max(0.0, v)) for v in detection.box_xyxy)
    return Detection((x0, y0, x1, y1), detection.confidence, detection.phrase)


def choose_seed(detections: Sequence[Sequence[Detection]]) -> Seed | None:
    """Choose the seed frame (spec 3.2, step 2 b) and number its embryos (step 3); None without any detection.

    The score of a frame is the sum of the confidences of its filtered detections. Of the frames with detections, in
    time order, the first fifth (at least one) is early; the best early frame is taken when it reaches 0.8 of the best
    score of all, else the best of all. Of equal scores the earlier frame wins. Embryos are numbered by falling
    confidence.
    """
    scored = [(sum(d.confidence for d in found), index) for index, found in enumerate(detections) if found]
    if not scored:
        return None

    def pick(candidates: list[tuple[float, int]]) -> tuple[float, int]:
        return max(candidates, key=lambda pair: (pair[0], -pair[1]))

    best = pick(scored)
    early = pick(scored[: max(1, int(EARLY_SHARE * len(scored)))])
    chosen = early if early[0] >= EARLY_SUFFICES * best[0] else best
    ordered = order_detections(clip_detection(d) for d in detections[chosen[1]])
    return Seed(chosen[1], ordered)
