from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from morphseq_dagster.detection.backends import Box, Detection
from morphseq_dagster.detection.classical import ClassicalDetector
from morphseq_dagster.detection.filtering import filter_detections, measure_box_iou
from morphseq_dagster.errors import PermanentError

Draw = Callable[..., NDArray[np.uint8]]
DETECTOR = ClassicalDetector()


def detect(image: NDArray[np.uint8], um_per_px: float | None = 10.0) -> tuple[Detection, ...]:
    return filter_detections(DETECTOR.detect(image, um_per_px=um_per_px))


def box_px(x0: float, y0: float, x1: float, y1: float) -> Box:
    return x0 / 400, y0 / 300, x1 / 400, y1 / 300


def test_chorion_is_boxed_not_the_body_inside(draw: Draw) -> None:
    (found,) = detect(draw(chorions=((200, 150),)))

    assert measure_box_iou(found.box_xyxy, box_px(139, 89, 261, 211)) > 0.93


def test_body_without_chorion_is_boxed(draw: Draw) -> None:
    (found,) = detect(draw(bodies=((200, 150),)))

    assert measure_box_iou(found.box_xyxy, box_px(119, 129, 281, 171)) > 0.8


def test_touching_chorions_are_two(draw: Draw) -> None:
    found = detect(draw(chorions=((120, 150), (242, 150))))

    assert sorted(round((d.box_xyxy[0] + d.box_xyxy[2]) * 200 / 10) for d in found) == [12, 24]


def test_hatched_embryo_beside_a_chorion_is_found_too(draw: Draw) -> None:
    assert len(detect(draw(chorions=((90, 80),), bodies=((280, 240),)))) == 2


@pytest.mark.parametrize("wall", [False, True])
def test_empty_well_with_debris_is_empty(draw: Draw, wall: bool) -> None:
    assert detect(draw(specks=((100, 80), (200, 200), (300, 120)), wall=wall)) == ()


def test_chorion_without_an_embryo_is_no_embryo(draw: Draw) -> None:
    assert detect(draw(empty_chorions=((200, 150),))) == ()


def test_plain_picture_is_empty() -> None:
    assert detect(np.full((64, 64), 200, np.uint8)) == ()


def test_embryo_cut_by_the_frame_keeps_its_box_inside(draw: Draw) -> None:
    (found,) = detect(draw(chorions=((20, 150),)))

    assert found.box_xyxy[0] == 0.0
    assert measure_box_iou(found.box_xyxy, box_px(0, 89, 81, 211)) > 0.85


def test_embryo_beside_a_dark_wall_is_found(draw: Draw) -> None:
    assert len(detect(draw(bodies=((220, 150),), wall=True))) == 1


def test_without_pixel_size_one_large_chorion_is_found(draw: Draw) -> None:
    image = draw(chorions=((200, 150),))[60:240, 90:310]

    assert len(detect(np.ascontiguousarray(image), um_per_px=None)) == 1


def test_pixel_size_decides_what_can_be_an_embryo(draw: Draw) -> None:
    # The same picture at 1 um/px shows rings of 0.12 mm: bubbles.
    assert detect(draw(chorions=((200, 150),)), um_per_px=1.0) == ()


def test_equal_input_gives_equal_output_and_is_left_alone(draw: Draw) -> None:
    image = draw(chorions=((120, 150),), bodies=((280, 60),))
    before = image.copy()

    assert DETECTOR.detect(image, um_per_px=10.0) == DETECTOR.detect(image, um_per_px=10.0)
    assert np.array_equal(image, before)


@pytest.mark.parametrize(
    "image",
    [np.zeros((4, 4, 3), np.uint8), np.zeros((0, 4), np.uint8), np.zeros((4, 4), np.uint16)],
    ids=["colour", "empty", "16-bit"],
)
def test_picture_of_another_kind_is_refused(image: NDArray[np.generic]) -> None:
    with pytest.raises(PermanentError, match="uint8"):
        DETECTOR.detect(image, um_per_px=1.0)  # type: ignore[arg-type]


def read_truth(shared: Path) -> dict[int, list[Box]]:
    boxes: dict[int, list[Box]] = defaultdict(list)
    with (shared / "data/embryonet_timelapse/tracks_ground_truth.csv").open() as table:
        for row in csv.DictReader(table):
            x0, y0, x1, y1 = (float(row[k]) / 2048 for k in ("x_min_px", "y_min_px", "x_max_px", "y_max_px"))
            boxes[int(row["time_point"])].append((x0, y0, x1, y1))
    return boxes


def test_every_embryo_of_the_real_time_lapse_is_found_and_nothing_else(shared: Path) -> None:
    truth = read_truth(shared)
    overlaps: list[float] = []
    for path in sorted((shared / "data/embryonet_timelapse/images").iterdir()):
        time = int(path.name.split("--LO")[1][:3])
        image = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
        found = [d.box_xyxy for d in detect(image.astype(np.uint8, copy=False), um_per_px=3.25)]
        assert len(found) == 10
        overlaps += [max(measure_box_iou(box, other) for other in found) for box in truth[time]]

    assert len(overlaps) == 180
    assert min(overlaps) > 0.85
    assert np.mean(overlaps) > 0.95


@pytest.mark.parametrize("um_per_px", [9.5, None])
def test_real_single_wells_show_exactly_one_embryo(shared: Path, um_per_px: float | None) -> None:
    paths = sorted((shared / "data/kimmelnet_wells/images").iterdir())
    images = [cv2.imread(str(path), cv2.IMREAD_GRAYSCALE) for path in paths]

    counts = [len(detect(image.astype(np.uint8, copy=False), um_per_px=um_per_px)) for image in images]

    assert len(counts) == 38
    assert counts.count(1) >= 37


def test_boxes_of_real_single_wells_are_as_large_as_chorions(shared: Path) -> None:
    for path in sorted((shared / "data/kimmelnet_wells/images").iterdir()):
        image = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE).astype(np.uint8, copy=False)
        for found in detect(image, um_per_px=9.5):
            x0, y0, x1, y1 = found.box_xyxy
            if min(x0, y0) > 0 and max(x1, y1) < 1:
                assert 1.05 < (x1 - x0) * image.shape[1] * 0.0095 < 1.45, path.name
                assert 1.05 < (y1 - y0) * image.shape[0] * 0.0095 < 1.45, path.name
