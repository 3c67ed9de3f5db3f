from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from morphseq_dagster.detection.backends import Detection
from morphseq_dagster.detection.filtering import filter_detections, measure_box_iou, order_detections


def found(x: float, y: float, *, confidence: float, side: float = 0.2) -> Detection:
    return Detection((x, y, x + side, y + side), confidence, "individual embryo")


def test_iou_of_half_shifted_squares_is_one_third() -> None:
    assert measure_box_iou((0, 0, 2, 2), (1, 0, 3, 2)) == pytest.approx(2 / 6)


def test_iou_of_touching_boxes_is_zero() -> None:
    assert measure_box_iou((0, 0, 1, 1), (1, 0, 2, 1)) == 0.0


def test_confidence_equal_to_the_limit_is_kept() -> None:
    at, below = found(0.1, 0.1, confidence=0.45), found(0.6, 0.6, confidence=0.4499)

    assert filter_detections([below, at]) == (at,)


def test_overlap_equal_to_the_limit_is_dropped() -> None:
    # 3 x 1 against the same shifted by 1: shared 2, union 4, overlap exactly 0.5.
    strong = Detection((0.0, 0.0, 3.0, 1.0), 0.9, "e")
    weak = Detection((1.0, 0.0, 4.0, 1.0), 0.8, "e")

    assert filter_detections([weak, strong]) == (strong,)
    assert filter_detections([weak, strong], iou_max=0.51) == (strong, weak)


def test_box_overlapping_only_a_dropped_one_is_kept() -> None:
    first, second, third = (Detection((x, 0.0, x + 3.0, 1.0), c, "e") for x, c in ((0, 0.9), (1, 0.8), (2, 0.7)))

    assert filter_detections([first, second, third]) == (first, third)


def test_nothing_in_nothing_out() -> None:
    assert filter_detections([]) == ()


def test_ties_do_not_depend_on_the_order_of_input() -> None:
    tied = [found(x, y, confidence=0.7) for x, y in ((0.1, 0.5), (0.5, 0.1), (0.1, 0.1))]

    results = {filter_detections(order) for order in itertools.permutations(tied)}

    assert results == {(tied[2], tied[1], tied[0])}


@given(
    st.lists(st.tuples(st.floats(0, 0.8), st.floats(0, 0.8), st.floats(0, 1), st.floats(0.01, 0.2)), max_size=12).map(
        lambda rows: [found(x, y, confidence=c, side=s) for x, y, c, s in rows]
    )
)
def test_kept_boxes_are_confident_apart_and_every_drop_has_a_reason(detections: list[Detection]) -> None:
    kept = filter_detections(detections)

    assert all(d.confidence >= 0.45 for d in kept)
    assert all(measure_box_iou(a.box_xyxy, b.box_xyxy) < 0.5 for a, b in itertools.combinations(kept, 2))
    for dropped in (d for d in detections if d not in kept):
        stronger = [k for k in kept if k.confidence >= dropped.confidence]
        assert dropped.confidence < 0.45 or any(measure_box_iou(k.box_xyxy, dropped.box_xyxy) >= 0.5 for k in stronger)
    assert kept == order_detections(kept)
