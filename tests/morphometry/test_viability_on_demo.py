from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from morphseq_dagster.demo.levels import Difficulty
from morphseq_dagster.demo.plan import WellPlan
from morphseq_dagster.morphometry.viability import infer_viability, measure_optics
from morphseq_dagster.quality.death import infer_death
from tests.support.frames_plate import FRAMES_PLATE, make_frames_plate
from tests.support.plate_truth import find_well, read_mask

PLAN = replace(
    FRAMES_PLATE,
    wells=(
        WellPlan("A01", kind="dying", start_age_hpf=18.0),
        WellPlan("A02", kind="dying", has_chorion=False, start_age_hpf=30.0),
        WellPlan("A03", start_age_hpf=14.0),
        WellPlan("A04", has_chorion=False, start_age_hpf=40.0),
    ),
    times=7,
    death_index=4,
    tile_shape_px=(560, 560),
)


@pytest.mark.parametrize("difficulty", ["easy", "middle", "hard"])
def test_death_is_found_within_one_frame_on_the_demo_plate(tmp_path: Path, difficulty: Difficulty) -> None:
    truth = make_frames_plate(tmp_path / "root", truth_folder=tmp_path / "truth", difficulty=difficulty, plan=PLAN)
    (listing,) = (tmp_path / "root").rglob("frames.csv")
    rows = []
    with listing.open(newline="") as file:
        for frame in csv.DictReader(file):
            image = cv2.imread(str(listing.parent / frame["path"]), cv2.IMREAD_GRAYSCALE)
            assert image is not None
            well, time_int = frame["well"], int(frame["time_int"])
            mask = read_mask(tmp_path / "truth", well=well, time_int=time_int) > 0
            optics = measure_optics(image.astype(np.uint8), mask=mask, um_per_px=truth.um_per_px)
            rows.append((well, time_int, float(frame["time_s"]), optics.transmission, optics.texture))
    table = pd.DataFrame(rows, columns=["embryo_id", "time_int", "time_s", "transmission", "texture"])
    table = table.join(infer_viability(table))
    table = table.join(infer_death(table))
    for well, group in table.groupby("embryo_id"):
        died = find_well(truth, str(well)).death_time_int
        found = group["dead_inflection_time_int"].iloc[0]
        if died is None:
            assert found is pd.NA
            assert group["fraction_alive"].min() > 0.9
        else:
            # The inflection is the last living frame.
            assert died - 1 <= found <= died
            assert (group["fraction_alive"] < 0.9).tolist() == (group["time_int"] >= died).tolist()
