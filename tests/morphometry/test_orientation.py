from __future__ import annotations

import math

import cv2
import numpy as np
import pytest

from morphseq_dagster.errors import PermanentError
from morphseq_dagster.morphometry.orientation import orient, pick_yolk


def _drop(angle_deg: float, size: int = 400) -> tuple[np.ndarray, np.ndarray]:
    """A drop with a round head (yolk) and a tail in direction `angle_deg` from down, counter-clockwise."""
    centre = np.array([size / 2, size / 2])
    down = np.array([math.cos(math.radians(angle_deg)), math.sin(math.radians(angle_deg))])
    head = centre - 60 * down
    tail = centre + 120 * down
    body = np.zeros((size, size), np.uint8)
    yolk = np.zeros((size, size), np.uint8)
    to_xy = lambda p: (round(float(p[1])), round(float(p[0])))  # noqa: E731
    cv2.circle(body, to_xy(head), 40, 1, -1)
    cv2.line(body, to_xy(head), to_xy(tail), 1, 16)
    cv2.circle(yolk, to_xy(head), 25, 1, -1)
    return body > 0, yolk > 0


@pytest.mark.parametrize("angle", [0, 20, 80, 90, 100, 179, 180, 200, 269, 271, 330])
@pytest.mark.parametrize("with_yolk", [True, False])
def test_head_comes_to_lie_on_top_from_every_side(angle: float, with_yolk: bool) -> None:
    mask, yolk = _drop(angle)
    lying = orient(mask, yolk=yolk if with_yolk else None)
    assert lying.head_rule == ("yolk" if with_yolk else "mass")
    rows, cols = np.nonzero(yolk)
    down, right = lying.upright(rows.astype(float), cols.astype(float))
    assert down.mean() < -30
    assert abs(right.mean()) < 5
    assert -math.pi < lying.angle_rad <= math.pi
    difference = math.degrees(lying.angle_rad) - angle
    assert abs((difference + 180) % 360 - 180) < 2


def test_a_yolk_at_the_light_end_turns_the_embryo_round() -> None:
    mask, _ = _drop(0)
    tail_end = np.zeros_like(mask)
    tail_end[300:315, 195:205] = True
    by_mass, by_yolk = orient(mask), orient(mask, yolk=tail_end)
    assert abs(by_mass.angle_rad) < 0.05
    assert abs(abs(by_yolk.angle_rad) - math.pi) < 0.05


def test_no_mirroring_the_map_is_a_rotation() -> None:
    lying = orient(_drop(130)[0])
    down, right = lying.upright(
        lying.row0 + np.array([1.0, 0.0]),
        lying.col0 + np.array([0.0, 1.0]),
    )
    assert down[0] * right[1] - right[0] * down[1] == pytest.approx(1.0)


def test_a_disk_has_no_axis_but_is_placed() -> None:
    yy, xx = np.ogrid[:101, :101]
    lying = orient((yy - 50) ** 2 + (xx - 50) ** 2 <= 900)
    assert not lying.has_axis
    assert lying.angle_rad == 0.0


def test_the_yolk_with_most_contact_is_taken_and_a_stranger_is_refused() -> None:
    mask, yolk = _drop(0)
    stranger = np.zeros_like(yolk)
    stranger[0:30, 0:30] = True
    assert np.array_equal(pick_yolk(yolk | stranger, mask=mask), yolk)
    assert pick_yolk(stranger, mask=mask) is None
    assert pick_yolk(None, mask=mask) is None
    with pytest.raises(PermanentError, match="nearest neighbour"):
        pick_yolk(yolk[:10], mask=mask)


def test_empty_mask_is_refused() -> None:
    with pytest.raises(PermanentError, match="empty"):
        orient(np.zeros((5, 5), bool))
