"""The frame table: geometry and times of the frames joined with the plate."""

from __future__ import annotations

import pandas as pd
import pytest

from morphseq_dagster.errors import PermanentError
from morphseq_dagster.morphseq.contracts.built_metadata import CONTRACT
from morphseq_dagster.morphseq.contracts.plate_metadata import CONTRACT as PLATE
from morphseq_dagster.testing.documents import make_ff_images, make_frame
from morphseq_dagster.testing.step_bench import StepBench, read_table

EXPERIMENT = "20250529_ctrl"


def supply_plate(bench: StepBench, **wells: dict[str, object]) -> None:
    rows = []
    for row in "ABCDEFGH":
        for column in range(1, 13):
            well = f"{row}{column:02d}"
            values = dict.fromkeys(PLATE.names) | {"experiment_id": EXPERIMENT, "well": well}
            rows.append(values | wells.get(well, {}))
    bench.supply_table("plate_metadata", pd.DataFrame(rows), contract=PLATE)


COMPLETE = {"start_age_hpf": 24.0, "temperature": 28.5, "genotype": "wt_ab"}


def supply_frames(bench: StepBench) -> None:
    frames = (
        make_frame("A01", 0, time_s=1000.0, um_per_px=2.0, height_px=40, width_px=60),
        make_frame("A01", 1, time_s=2800.0, um_per_px=2.0, height_px=40, width_px=60),
        make_frame("B02", 0, time_s=1012.5, um_per_px=2.0, height_px=40, width_px=60),
    )
    bench.supply("ff_images", make_ff_images(EXPERIMENT, frames))


def test_one_row_per_well_and_time_with_the_plate_s_values(bench: StepBench) -> None:
    supply_frames(bench)
    supply_plate(bench, A01=COMPLETE, B02={"start_age_hpf": 30.0, "temperature": 24.0, "genotype": "lmx1b_ab"})
    result = bench.run("built_metadata")
    table = read_table(result, CONTRACT)
    assert list(zip(table["well"], table["time_int"], strict=True)) == [("A01", 0), ("A01", 1), ("B02", 0)]
    assert list(table["well_id"]) == ["20250529_ctrl_A01", "20250529_ctrl_A01", "20250529_ctrl_B02"]
    assert list(table["genotype"]) == ["wt_ab", "wt_ab", "lmx1b_ab"]
    assert list(table["temperature"]) == [28.5, 28.5, 24.0]
    assert set(table["temperature_source"]) == {"workbook"}
    assert list(table["time_string"]) == ["T0000", "T0001", "T0000"]
    assert set(table["experiment_date"]) == {EXPERIMENT}
    assert result.staged.counts == {"rows": 3, "wells": 2}


def test_relative_time_starts_at_the_first_frame_of_the_whole_experiment(bench: StepBench) -> None:
    supply_frames(bench)
    supply_plate(bench, A01=COMPLETE, B02=COMPLETE)
    table = read_table(bench.run("built_metadata"), CONTRACT)
    assert list(table["Time (s)"]) == [1000.0, 2800.0, 1012.5]
    assert list(table["Time Rel (s)"]) == [0.0, 1800.0, 12.5]


def test_field_in_micrometres_is_pixels_times_pixel_size(bench: StepBench) -> None:
    supply_frames(bench)
    supply_plate(bench, A01=COMPLETE, B02=COMPLETE)
    first = read_table(bench.run("built_metadata"), CONTRACT).iloc[0]
    assert (first["Height (px)"], first["Width (px)"]) == (40, 60)
    assert (first["Height (um)"], first["Width (um)"], first["um_per_px"]) == (80.0, 120.0, 2.0)


def test_unknown_pixel_size_and_time_stay_null(bench: StepBench) -> None:
    frames = (make_frame("A01", 0, time_s=None, um_per_px=None),)
    bench.supply("ff_images", make_ff_images(EXPERIMENT, frames))
    supply_plate(bench, A01=COMPLETE)
    row = read_table(bench.run("built_metadata"), CONTRACT).iloc[0]
    for name in ("um_per_px", "Height (um)", "Width (um)", "Time (s)", "Time Rel (s)"):
        assert pd.isna(row[name]), name
    assert row["Height (px)"] == 40


def test_blank_cells_of_wells_with_pictures_are_refused_all_at_once(bench: StepBench) -> None:
    supply_frames(bench)
    supply_plate(bench, A01={"start_age_hpf": 24.0}, B02={"genotype": "wt"})
    with pytest.raises(PermanentError) as caught:
        bench.run("built_metadata")
    assert caught.value.found == "start_age_hpf is blank for B02; temperature is blank for A01, B02"
    assert EXPERIMENT in caught.value.where
    assert "default_temperature_c" in caught.value.remedy


def test_blank_cells_of_wells_without_pictures_do_not_matter(bench: StepBench) -> None:
    supply_frames(bench)
    supply_plate(bench, A01=COMPLETE, B02=COMPLETE, C03={"genotype": "wt"})
    assert len(read_table(bench.run("built_metadata"), CONTRACT)) == 3


def test_start_age_in_words_counts_as_given(bench: StepBench) -> None:
    supply_frames(bench)
    supply_plate(bench, A01=COMPLETE, B02={"start_age_label": "18ss", "temperature": 28.5})
    row = read_table(bench.run("built_metadata"), CONTRACT).iloc[2]
    assert row["start_age_label"] == "18ss"
    assert pd.isna(row["start_age_hpf"])


def test_temperature_of_the_recipe_fills_blanks_only_and_says_so(bench: StepBench) -> None:
    supply_frames(bench)
    supply_plate(bench, A01=COMPLETE, B02={"start_age_hpf": 24.0})
    table = read_table(bench.run("built_metadata", recipe={"default_temperature_c": 27.0}), CONTRACT)
    assert list(table["temperature"]) == [28.5, 28.5, 27.0]
    assert list(table["temperature_source"]) == ["workbook", "workbook", "recipe"]
