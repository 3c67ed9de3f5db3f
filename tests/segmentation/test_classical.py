from __future__ import annotations

import csv
from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from morphseq_dagster.demo.plan import DEMO_PLATE, PlatePlan
from morphseq_dagster.demo.truth import PlateTruth
from morphseq_dagster.detection.backends import Detection
from morphseq_dagster.detection.classical import ClassicalDetector
from morphseq_dagster.detection.filtering import filter_detections, measure_box_iou
from morphseq_dagster.errors import PermanentError
from morphseq_dagster.segmentation.classical import ClassicalSegmenter
from morphseq_dagster.segmentation.model import WellTracks, measure_mask_box
from tests.support.frames_plate import FRAMES_PLATE, make_frames_plate
from tests.support.plate_truth import read_mask

DETECTOR, SEGMENTER = ClassicalDetector(), ClassicalSegmenter()
UM_PER_PX = 8.0


@dataclass
class FileFrame:
    path: Path
    reads: int = 0

    def read(self) -> NDArray[np.uint8]:
        self.reads += 1
        return cv2.imread(str(self.path), cv2.IMREAD_GRAYSCALE).astype(np.uint8, copy=False)


@dataclass(frozen=True)
class ArrayFrame:
    pixels: NDArray[np.uint8]

    def read(self) -> NDArray[np.uint8]:
        return self.pixels


def measure_mask_iou(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    return np.count_nonzero(a & b) / np.count_nonzero(a | b)


def draw_bodies(*centres: tuple[int, int]) -> tuple[NDArray[np.uint8], list[NDArray[np.bool_]]]:
    """Ellipses of 1.0 x 0.4 mm in a field of 300 x 500 px, and their masks."""
    light = np.full((300, 500), 180.0, np.float32)
    masks = []
    for x, y in centres:
        mask = np.zeros((300, 500), np.uint8)
        cv2.ellipse(mask, (x, y), (62, 25), 0, 0, 360, 1, -1)
        rim = mask - cv2.erode(mask, np.ones((5, 5), np.uint8))
        light[mask > 0] = 130.0
        light[rim > 0] = 90.0
        masks.append(mask > 0)
    noisy = cv2.GaussianBlur(light, (0, 0), 0.8) + np.random.default_rng(3).normal(0, 2, light.shape)
    return np.clip(np.rint(noisy), 0, 255).astype(np.uint8), masks


def find(image: NDArray[np.uint8], um_per_px: float | None = UM_PER_PX) -> tuple[Detection, ...]:
    return filter_detections(DETECTOR.detect(image, um_per_px=um_per_px))


def segment(*images: NDArray[np.uint8]) -> WellTracks:
    return SEGMENTER.segment(
        [ArrayFrame(image) for image in images],
        detections=[find(image) for image in images],
        um_per_px=UM_PER_PX,
    )


def test_mask_of_a_body_agrees_with_the_drawing() -> None:
    image, (truth,) = draw_bodies((250, 150))

    ((found,),) = segment(image).frames

    assert found.mask_target == "body"
    assert measure_mask_iou(found.mask(), truth) > 0.95
    assert found.area_px == found.mask().sum()
    assert found.box_xyxy == pytest.approx(measure_mask_box(found.mask()))
    assert 0.9 < found.confidence <= 1.0


def test_identities_hold_while_embryos_move_and_pass() -> None:
    paths = [[(100 + 20 * t, 80), (400 - 20 * t, 150), (250, 230)] for t in range(8)]
    drawn = [draw_bodies(*centres) for centres in paths]

    tracks = segment(*[image for image, _ in drawn])

    followed = defaultdict(set)
    for (_, truths), masks in zip(drawn, tracks.frames, strict=True):
        assert len(masks) == 3
        for found in masks:
            overlaps = [measure_mask_iou(found.mask(), truth) for truth in truths]
            followed[found.embryo_number].add(int(np.argmax(overlaps)))
            assert max(overlaps) > 0.9
    assert sorted(len(seen) for seen in followed.values()) == [1, 1, 1]


def test_embryo_missed_in_a_frame_is_absent_there_and_keeps_its_number() -> None:
    image, _ = draw_bodies((120, 100), (380, 200))
    both = find(image)
    left = min(both, key=lambda d: d.box_xyxy[0])
    detections = [both, both, (left,), (), both]

    tracks = SEGMENTER.segment([ArrayFrame(image)] * 5, detections=detections, um_per_px=UM_PER_PX)

    number_left = min(tracks.frames[0], key=lambda m: m.box_xyxy[0]).embryo_number
    assert [[m.embryo_number for m in masks] for masks in tracks.frames] == [[1, 2], [1, 2], [number_left], [], [1, 2]]
    assert tracks.frames[4] == tracks.frames[0]


def test_embryo_that_appears_after_the_seed_frame_gets_no_number() -> None:
    one, _ = draw_bodies((120, 100))
    two, _ = draw_bodies((120, 100), (380, 200))
    early = tuple(replace(d, confidence=1.0) for d in find(one))
    late = tuple(replace(d, confidence=0.5) for d in find(two))

    tracks = SEGMENTER.segment([ArrayFrame(one), ArrayFrame(two)], detections=[early, late], um_per_px=UM_PER_PX)

    assert (tracks.seed_index, tracks.num_embryos, tracks.bidirectional) == (0, 1, False)
    assert [len(masks) for masks in tracks.frames] == [1, 1]


def test_frames_before_the_seed_frame_are_followed_backward() -> None:
    image, _ = draw_bodies((120, 100))
    found = find(image)
    weak = tuple(replace(d, confidence=0.5) for d in found)
    sure = tuple(replace(d, confidence=1.0) for d in found)

    tracks = SEGMENTER.segment([ArrayFrame(image)] * 3, detections=[weak, weak, sure], um_per_px=UM_PER_PX)

    assert (tracks.seed_index, tracks.bidirectional) == (2, True)
    assert [[m.embryo_number for m in masks] for masks in tracks.frames] == [[1], [1], [1]]


def test_well_without_detections_has_no_embryos_and_reads_nothing(tmp_path: Path) -> None:
    frame = FileFrame(tmp_path / "never.png")

    tracks = SEGMENTER.segment([frame, frame], detections=[(), ()], um_per_px=None)

    assert tracks == WellTracks(None, False, 0, ((), ()))
    assert frame.reads == 0


def test_frames_of_unequal_size_are_refused_with_the_frame_named() -> None:
    image, _ = draw_bodies((250, 150))
    detections = [find(image)] * 2

    with pytest.raises(PermanentError, match="frame 1"):
        SEGMENTER.segment(
            [ArrayFrame(image), ArrayFrame(image[:, :-1].copy())], detections=detections, um_per_px=UM_PER_PX
        )


def test_wrong_number_of_detection_lists_is_refused() -> None:
    image, _ = draw_bodies((250, 150))

    with pytest.raises(PermanentError, match="2 lists"):
        SEGMENTER.segment([ArrayFrame(image)], detections=[(), ()], um_per_px=UM_PER_PX)


def test_box_on_nothing_gives_an_empty_mask_without_confidence() -> None:
    image = np.full((200, 200), 170, np.uint8)
    detection = Detection((0.3, 0.3, 0.7, 0.7), 0.9, "e")

    ((found,),) = SEGMENTER.segment([ArrayFrame(image)], detections=[(detection,)], um_per_px=UM_PER_PX).frames

    assert (found.area_px, found.confidence, found.box_xyxy) == (0, 0.0, (0.0, 0.0, 0.0, 0.0))


def test_equal_input_gives_equal_output() -> None:
    image, _ = draw_bodies((120, 100), (380, 200))

    assert segment(image, image) == segment(image, image)


@pytest.fixture(scope="module")
def plate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, PlateTruth]:
    """The demo's wells as sharp pictures at middle difficulty, three times 75 minutes apart."""
    root = tmp_path_factory.mktemp("plate")
    plan: PlatePlan = replace(
        FRAMES_PLATE,
        wells=DEMO_PLATE.wells,
        tile_shape_px=(400, 800),
        um_per_px=DEMO_PLATE.um_per_px,
        edge_every=3,
        time_step_s=4500.0,
    )
    return root, make_frames_plate(root, truth_folder=root / "truth", plan=plan)


def test_rendered_embryos_are_outlined_and_the_empty_well_is_empty(plate: tuple[Path, PlateTruth]) -> None:
    root, truth = plate
    folder = root / "raw_image_data/Frames" / truth.experiment
    table = list(csv.DictReader((folder / "frames.csv").open()))
    truth_folder = next((root / "truth").rglob("truth.json")).parent
    overlaps: dict[str, list[float]] = defaultdict(list)
    for well in truth.wells:
        frames = [FileFrame(folder / row["path"]) for row in table if row["well"] == well.well]
        detections = [find(frame.read(), truth.um_per_px) for frame in frames]
        tracks = SEGMENTER.segment(frames, detections=detections, um_per_px=truth.um_per_px)
        assert tracks.num_embryos == (0 if well.kind == "empty" else 1)
        for frame, masks in zip(well.frames, tracks.frames, strict=True):
            expected = read_mask(truth_folder, well=well.well, time_int=frame.time_int) > 0
            overlaps[well.well] += [measure_mask_iou(found.mask(), expected) for found in masks]

    assert {well: len(values) for well, values in overlaps.items()} == {
        well.well: 0 if well.kind == "empty" else 3 for well in truth.wells
    }
    assert min(value for values in overlaps.values() for value in values) > 0.9
    assert np.mean([value for values in overlaps.values() for value in values]) > 0.96


def test_real_time_lapse_keeps_ten_identities_and_steady_areas(shared: Path) -> None:
    paths = sorted((shared / "data/embryonet_timelapse/images").iterdir(), key=lambda p: p.name.split("--LO")[1])
    frames = [FileFrame(path) for path in paths]
    detections = [find(frame.read(), 3.25) for frame in frames]
    tracks = SEGMENTER.segment(frames, detections=detections, um_per_px=3.25)

    with (shared / "data/embryonet_timelapse/tracks_ground_truth.csv").open() as table:
        rows = list(csv.DictReader(table))
    identities = defaultdict(set)
    areas = defaultdict(list)
    for path, masks in zip(paths, tracks.frames, strict=True):
        time = path.name.split("--LO")[1][:3].lstrip("0")
        truths = [
            (r["embryo_id"], tuple(float(r[k]) / 2048 for k in ("x_min_px", "y_min_px", "x_max_px", "y_max_px")))
            for r in rows
            if r["time_point"] == time
        ]
        for found in masks:
            identity, _ = max(truths, key=lambda pair: measure_box_iou(found.box_xyxy, pair[1]))  # type: ignore[arg-type]
            identities[found.embryo_number].add(identity)
            areas[identity].append(found.area_px)
            assert found.mask_target == "body"

    assert all(frame.reads == 2 for frame in frames)  # once by the detector, once here
    assert sorted(len(masks) for masks in tracks.frames) == [10] * 18
    assert sorted(identity for seen in identities.values() for identity in seen) == sorted(map(str, range(1, 11)))
    # Embryo 8 dies on the way; the others change shape slowly, from cleavage to the first somites.
    for identity, values in areas.items():
        if identity != "8":
            middle = np.median(values)
            assert max(abs(v - middle) for v in values) < 0.18 * middle


def test_real_body_is_told_from_chorion_or_the_chorion_is_the_mask(shared: Path) -> None:
    paths = sorted((shared / "data/kimmelnet_wells/images").iterdir())[::4]
    targets = []
    for path in paths:
        frame = FileFrame(path)
        tracks = SEGMENTER.segment([frame], detections=[find(frame.read(), 9.5)], um_per_px=9.5)
        targets += [m.mask_target for masks in tracks.frames for m in masks]
        assert all(m.area_px > 0 for masks in tracks.frames for m in masks)

    assert len(targets) == len(paths)
    assert set(targets) <= {"body", "chorion"}


@pytest.mark.parametrize("x", [90, 410])
def test_box_of_a_body_of_unknown_scale_is_taken_to_be_as_long_as_a_body(x: int) -> None:
    image, (truth,) = draw_bodies((x, 150))
    box = Detection(((x - 65) / 500, 122 / 300, (x + 65) / 500, 178 / 300), 0.9, "e")

    ((found,),) = SEGMENTER.segment([ArrayFrame(image)], detections=[(box,)], um_per_px=None).frames

    scale = SEGMENTER.settings.body_extent_um / 130
    ((known,),) = SEGMENTER.segment([ArrayFrame(image)], detections=[(box,)], um_per_px=scale).frames
    assert found == known
    assert found.mask_target == "body"
    assert measure_mask_iou(found.mask(), truth) > 0.9
