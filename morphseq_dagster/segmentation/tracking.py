"""Which mask of this frame is which embryo: assignment by place, overlap and size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment

from morphseq_dagster.detection.backends import Box
from morphseq_dagster.detection.filtering import measure_box_iou

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


def match_places(last: Mapping[int, Position], candidates: Sequence[Position], *, gate: float = GATE) -> dict[int, int]:
    """Give candidates of a frame to embryos with the least total cost; pairs that cost more than `gate` never match.

    From embryo number to last place, to embryo number and index of its candidate, sorted by number; embryos without a
    candidate are absent.
    """
    numbers = sorted(last)
    if not numbers or not candidates:
        return {}
    diameter = float(np.median([last[n].diameter for n in numbers] + [c.diameter for c in candidates]))
    cost = np.array([[measure_cost(last[n], c, diameter=diameter) for c in candidates] for n in numbers])
    rows, columns = linear_sum_assignment(np.where(cost > gate, FORBIDDEN, cost))
    pairs = zip(rows.tolist(), columns.tolist(), strict=True)
    return {numbers[r]: c for r, c in pairs if cost[r, c] <= gate}
