"""Which mask is which embryo: numbers from the seed frame of a well (spec 3.2), then assignment by place and size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment

from morphseq_dagster.detection.backends import Box, Detection
from morphseq_dagster.detection.filtering import measure_box_iou, order_detections

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


GATE = 1.5
"""Largest cost of a match: one diameter apart without overlap is 2, in place with half the overlap is 0.5."""
FORBIDDEN = 1e6


@dataclass(frozen=True)
class Position:
    """Where something is: its box in frame pixels (x_min, y_min, x_max, y_max)."""

    box_px: Box

    @property
    def centre(self) -> tuple[float, float]:
        """Middle of the box, x and y in pixels."""
        return (self.box_px[0] + self.box_px[2]) / 2, (self.box_px[1] + self.box_px[3]) / 2

    @property
    def area(self) -> float:
        """Area of the box in pixels."""
        return (self.box_px[2] - self.box_px[0]) * (self.box_px[3] - self.box_px[1])

    @property
    def diameter(self) -> float:
        """Mean of the box's sides in pixels."""
        return (self.box_px[2] - self.box_px[0] + self.box_px[3] - self.box_px[1]) / 2


def measure_cost(a: Position, b: Position, *, diameter: float) -> float:
    """Cost of saying that two places are one embryo.

    Centre distance over the median diameter, plus 1 - overlap of the boxes, plus half the absolute logarithm of
    the ratio of areas. The last two tell neighbours apart when embryos move.
    """
    distance = float(np.hypot(a.centre[0] - b.centre[0], a.centre[1] - b.centre[1])) / max(diameter, 1.0)
    ratio = abs(float(np.log(max(a.area, 1.0) / max(b.area, 1.0))))
    return distance + (1.0 - measure_box_iou(a.box_px, b.box_px)) + 0.5 * ratio


def match_places(last: Mapping[int, Position], candidates: Sequence[Position]) -> dict[int, int]:
    """Give candidates of a frame to embryos with the least total cost; pairs that cost more than `GATE` never match.

    From embryo number to last place, to embryo number and index of its candidate, sorted by number; embryos without a
    candidate are absent.
    """
    numbers = sorted(last)
    if not numbers or not candidates:
        return {}
    diameter = float(np.median([last[n].diameter for n in numbers] + [c.diameter for c in candidates]))
    cost = np.array([[measure_cost(last[n], c, diameter=diameter) for c in candidates] for n in numbers])
    rows, columns = linear_sum_assignment(np.where(cost > GATE, FORBIDDEN, cost))
    pairs = zip(rows.tolist(), columns.tolist(), strict=True)
    return {numbers[r]: c for r, c in pairs if cost[r, c] <= GATE}
