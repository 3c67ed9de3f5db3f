from __future__ import annotations

from morphseq_dagster.detection.backends import Detection
from morphseq_dagster.segmentation.tracking import choose_seed


def frame(*confidences: float) -> tuple[Detection, ...]:
    return tuple(Detection((0.1 * i, 0.0, 0.1 * i + 0.05, 0.1), c, "e") for i, c in enumerate(confidences))


def seed_index(*frames: tuple[Detection, ...]) -> int | None:
    seed = choose_seed(frames)
    return None if seed is None else seed.frame_index


def test_no_detections_no_seed() -> None:
    assert choose_seed([(), ()]) is None


def test_early_frame_is_taken_when_it_reaches_four_fifths_of_the_best() -> None:
    # Five frames with detections: the early set is the first one. 0.8 >= 0.8 * 1.0.
    assert seed_index(frame(0.8), *[frame(1.0)] * 4) == 0


def test_best_frame_is_taken_when_the_early_ones_fall_short() -> None:
    assert seed_index(frame(0.79), frame(0.9), frame(1.0), frame(0.9), frame(0.9)) == 2


def test_score_is_the_sum_of_confidences() -> None:
    assert seed_index(frame(0.95), frame(0.6, 0.6)) == 1


def test_frames_without_detections_do_not_count_as_early() -> None:
    assert seed_index((), (), (), frame(0.9), frame(1.0)) == 3


def test_early_set_is_a_fifth_rounded_down() -> None:
    # Eleven frames: two are early, the better of them is taken.
    assert seed_index(frame(0.8), frame(0.9), *[frame(1.0)] * 9) == 1
    # Nine frames: one is early.
    assert seed_index(frame(0.8), frame(0.9), *[frame(1.0)] * 7) == 0


def test_of_equal_scores_the_earlier_frame_wins() -> None:
    assert seed_index(frame(0.1), frame(0.9), frame(0.9), frame(0.9)) == 1


def test_embryos_are_numbered_by_falling_confidence() -> None:
    seed = choose_seed([frame(0.5, 0.9, 0.7)])

    assert seed is not None
    assert [d.confidence for d in seed.detections] == [0.9, 0.7, 0.5]


def test_boxes_are_clipped_to_the_frame() -> None:
    seed = choose_seed([(Detection((-0.01, 0.2, 1.02, 0.9), 0.8, "e"),)])

    assert seed is not None
    assert seed.detections[0].box_xyxy == (0.0, 0.2, 1.0, 0.9)
