"""Visibility: the measure, and the figures that the levels state."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from morphseq_dagster.demo.levels import Difficulty
from morphseq_dagster.demo.plan import WellPlan
from tests.support.frames_plate import FRAMES_PLATE, make_frames_plate
from tests.support.visibility import Visibility, measure_in_chorion, measure_visibility


def test_contrast_is_the_share_of_the_background_that_is_missing() -> None:
    image = np.full((40, 40), 200, np.uint8)
    image[10:30, 10:30] = 150
    embryo = np.zeros((40, 40), bool)
    embryo[10:30, 10:30] = True
    seen = measure_visibility(image, embryo=embryo, background=~embryo)
    assert (seen.background_grey, seen.embryo_grey, seen.contrast) == (200, 150, 0.25)


@pytest.mark.parametrize("noise_sd", [0.5, 2.0, 6.0])
def test_noise_is_found_on_a_slope_with_debris(noise_sd: float) -> None:
    random = np.random.default_rng(5)
    image = np.linspace(150, 200, 300)[:, None] + np.zeros((300, 300))
    image[100:104, 50:60] -= 90
    image = (image + noise_sd * random.standard_normal(image.shape)).astype(np.float32)
    background = np.ones(image.shape, bool)
    background[:20] = False
    seen = measure_visibility(image, embryo=~background, background=background)
    assert seen.noise_sd == pytest.approx(noise_sd, rel=0.03)


def test_embryo_that_does_not_show_has_infinite_noise_to_contrast() -> None:
    assert Visibility(180, 180, 0.0, 1.0).noise_to_contrast == float("inf")


def test_empty_region_is_refused() -> None:
    with pytest.raises(ValueError, match="pixels"):
        measure_visibility(np.zeros((5, 5)), embryo=np.zeros((5, 5), bool), background=np.ones((5, 5), bool))


def test_ring_hidden_by_other_chorions_is_unknown() -> None:
    image = np.full((200, 200), 100, np.uint8)
    assert measure_in_chorion(image, box_px=(60, 60, 140, 140), others_px=[(0, 0, 200, 200)]) is None


@pytest.mark.parametrize(
    ("difficulty", "contrast", "noise_sd", "ratio"),
    [("easy", 0.330, 0.76, 0.011), ("middle", 0.274, 1.53, 0.030), ("hard", 0.157, 3.02, 0.116)],
)
def test_levels_show_what_their_table_states(
    difficulty: Difficulty, contrast: float, noise_sd: float, ratio: float, tmp_path: Path
) -> None:
    wells = tuple(
        WellPlan(f"A{k:02d}", start_age_hpf=10 + 1.5 * k, kind="dying" if k > 8 else "embryo") for k in range(1, 11)
    )
    truth = make_frames_plate(
        tmp_path,
        truth_folder=tmp_path / "truth",
        difficulty=difficulty,
        plan=replace(FRAMES_PLATE, wells=wells, um_per_px=5.66),
    )
    living = []
    for well in truth.wells:
        for frame in well.frames:
            path = tmp_path / "raw_image_data/Frames" / truth.experiment / f"{well.well}_t{frame.time_int:04d}.png"
            box = frame.chorion_box_px
            assert box is not None
            seen = measure_in_chorion(cv2.imread(str(path), cv2.IMREAD_GRAYSCALE), box_px=box)
            if frame.opacity == 0 and seen is not None:
                living.append(seen)
    assert len(living) == 26
    assert np.median([s.contrast for s in living]) == pytest.approx(contrast, abs=0.005)
    assert np.median([s.noise_sd for s in living]) == pytest.approx(noise_sd, abs=0.02)
    assert np.median([s.noise_to_contrast for s in living]) == pytest.approx(ratio, abs=0.002)


def test_real_series_shows_what_the_table_states(shared: Path) -> None:
    base = shared / "data" / "embryonet_timelapse"
    with (base / "tracks_ground_truth.csv").open() as file:
        rows = list(csv.DictReader(file))
    found: dict[str, list[Visibility]] = {"0": [], "1": []}
    for path in sorted((base / "images").iterdir()):
        number = path.name.split("LO")[1][:3]
        image = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
        here = [row for row in rows if int(row["time_point"]) == int(number)]
        boxes = [tuple(float(row[key]) for key in ("y_min_px", "x_min_px", "y_max_px", "x_max_px")) for row in here]
        for row, box in zip(here, boxes, strict=True):
            # A cut-out keeps this affordable: no region lies farther than 0.75 diameters from the centre.
            top, left = (max(0, int(v) - 150) for v in box[:2])
            part = image[top : int(box[2]) + 150, left : int(box[3]) + 150]
            moved = [(b[0] - top, b[1] - left, b[2] - top, b[3] - left) for b in boxes]
            own = (box[0] - top, box[1] - left, box[2] - top, box[3] - left)
            seen = measure_in_chorion(part, box_px=own, others_px=moved)
            if seen is not None:
                found[row["dead"]].append(seen)
    assert (len(found["0"]), len(found["1"])) == (172, 8)
    contrasts = [s.contrast for s in found["0"]]
    assert np.percentile(contrasts, [5, 50, 95]) == pytest.approx([0.158, 0.252, 0.341], abs=0.003)
    assert np.median([s.contrast for s in found["1"]]) == pytest.approx(0.779, abs=0.003)
    assert np.median([s.noise_sd for s in found["0"]]) == pytest.approx(0.57, abs=0.01)
    assert np.median([s.noise_to_contrast for s in found["0"]]) == pytest.approx(0.012, abs=0.001)
