"""The embryo table (build03): shape by hand, flags that may be unknown, stage, perturbation, overrides."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from morphseq_dagster.errors import ContractError, PermanentError
from morphseq_dagster.morphseq.contracts.built_metadata import CONTRACT as FRAMES
from morphseq_dagster.morphseq.contracts.embryo_metadata import CONTRACT
from morphseq_dagster.morphseq.contracts.experiment_metadata import ExperimentMetadata
from morphseq_dagster.morphseq.contracts.sam2_metadata import CONTRACT as SAM2
from morphseq_dagster.testing.documents import (
    Mask,
    Masks,
    draw_block,
    lay_frames,
    lay_masks,
    make_qc_masks,
    make_segmentation,
)
from morphseq_dagster.testing.step_bench import StepBench, read_document, read_table

EXPERIMENT = "20250529_ctrl"
SHAPE = (400, 400)
# R13's required columns (spec, science 5.3), written out.
REQUIRED = [
    "snip_id", "experiment_id", "experiment_date", "video_id", "image_id", "embryo_id", "well", "time_int",
    "Time Rel (s)", "surface_area_um", "length_um", "width_um", "use_embryo_flag", "bubble_flag", "focus_flag",
    "frame_flag", "dead_flag", "no_yolk_flag", "predicted_stage_hpf", "temperature", "medium", "phenotype",
    "control_flag", "short_pert_name",
]  # fmt: skip
KEY = """master_perturbation,short_pert_name,phenotype,control_flag,pert_type,background
wt_ab,wt_ab,wt,True,background,ab
lmx1b_ab,lmx1b,lmx1b,False,CRISPR,ab
"""


def block(row: int, column: int) -> Mask:
    """Embryo of 10 x 30 px with its first pixel at (row, column)."""
    return draw_block(SHAPE, rows=(row, row + 10), columns=(column, column + 30))


def photograph(masks: dict[int, Mask]) -> NDArray[np.uint8]:
    picture = np.full(SHAPE, 200, np.uint8)
    for mask in masks.values():
        picture[mask] = 120
    return picture


def prepare(
    bench: StepBench,
    masks: Masks,
    *,
    um_per_px: float | None = 2.0,
    plate: dict[str, Any] | None = None,
    mask_target: Literal["body", "chorion"] = "body",
) -> None:
    """Supply every input of the step: pictures and masks as given, the tables made by the steps before."""
    pictures = {well: {t: photograph(dict(m)) for t, m in by_time.items()} for well, by_time in masks.items()}
    lay_frames(bench, pictures, um_per_px=um_per_px)
    values = {"genotype": "wt_ab", "medium": "E3", "start_age_hpf": 24.0, "temperature": 28.5} | (plate or {})
    size = {} if um_per_px is None else {"Height (um)": 400 * um_per_px, "Width (um)": 400 * um_per_px}
    rows = [
        dict.fromkeys(FRAMES.names)
        | {"well_id": f"{EXPERIMENT}_{well}", "well": well, "time_int": t, "time_string": f"T{t:04d}"}
        | {"Height (px)": 400, "Width (px)": 400, "um_per_px": um_per_px, "experiment_date": EXPERIMENT}
        | {"Time (s)": 1800.0 * t, "Time Rel (s)": 1800.0 * t, "microscope": "Frames", **size, **values}
        for well, by_time in masks.items()
        for t in by_time
    ]
    bench.supply_table("built_metadata", pd.DataFrame(rows), contract=FRAMES)
    bench.supply("experiment_metadata", read_document(bench.run("experiment_metadata"), ExperimentMetadata))
    lay_masks(bench, make_segmentation(EXPERIMENT, masks, mask_target=mask_target), masks)
    bench.supply_table("sam2_metadata", read_table(bench.run("sam2_metadata"), SAM2), contract=SAM2)
    bench.supply("qc_masks", make_qc_masks(EXPERIMENT))


def run(bench: StepBench) -> pd.DataFrame:
    return read_table(bench.run("embryo_metadata"), CONTRACT)


def test_required_columns_are_there(bench: StepBench) -> None:
    prepare(bench, {"A01": {0: {1: block(200, 180)}}})
    assert set(REQUIRED) <= set(run(bench).columns)
    assert len(run(bench).columns) == len(set(run(bench).columns))


def test_shape_of_a_rectangle_in_pixels_and_micrometres(bench: StepBench) -> None:
    # rows 200..209, columns 180..209, 2 um per pixel
    prepare(bench, {"A01": {0: {1: block(200, 180)}}})
    row = run(bench).iloc[0]
    assert row["area_px"] == 300
    assert (row["centroid_x_px"], row["centroid_y_px"]) == (194.5, 204.5)
    assert row["perimeter_px"] == 2 * (29 + 9)
    assert row["area_um2"] == row["surface_area_um"] == 1200.0
    assert (row["centroid_x_um"], row["centroid_y_um"], row["perimeter_um"]) == (389.0, 409.0, 152.0)
    assert (row["length_um"], row["width_um"]) == (58.0, 18.0)
    assert row["solidity"] == 1.0


def test_field_of_view_has_names_of_its_own(bench: StepBench) -> None:
    prepare(bench, {"A01": {0: {1: block(200, 180)}}})
    row = run(bench).iloc[0]
    assert (row["fov_width_um"], row["fov_height_um"], row["fov_width_px"], row["fov_height_px"]) == (
        800,
        800,
        400,
        400,
    )
    assert row["um_per_px"] == 2.0
    # middle of the box with inclusive maxima: (180 + 209) / 2 / 400 and (200 + 209) / 2 / 400
    assert (row["xpos"], row["ypos"]) == pytest.approx((0.48625, 0.51125))


def test_ids_of_a_row(bench: StepBench) -> None:
    prepare(bench, {"A01": {3: {2: block(200, 180)}}})
    row = run(bench).iloc[0]
    assert row["snip_id"] == "20250529_ctrl_A01_e02_t0003"
    assert row["embryo_id"] == "20250529_ctrl_A01_e02"
    assert row["image_id"] == "20250529_ctrl_A01_ch00_t0003"
    assert row["video_id"] == row["well_id"] == "20250529_ctrl_A01"
    assert row["experiment_id"] == row["experiment_date"] == "20250529_ctrl"
    assert (row["well"], row["time_int"], row["time_string"], row["region_label"]) == ("A01", 3, "T0003", 2)


def test_speed_is_the_way_since_the_embryo_s_own_last_frame_over_the_time(bench: StepBench) -> None:
    # e01 moves by 3 rows and 4 columns (5 px = 10 um) in 1800 s, is not found at 2, and is back 8 px (16 um) further
    # 3600 s later; e02 rests.
    prepare(
        bench,
        {
            "A01": {
                0: {1: block(200, 180), 2: block(100, 100)},
                1: {1: block(203, 184), 2: block(100, 100)},
                2: {2: block(100, 100)},
                3: {1: block(203, 192), 2: block(100, 100)},
            }
        },
    )
    table = run(bench)
    speed = {snip[-9:]: value for snip, value in zip(table["snip_id"], table["speed_um_per_s"], strict=True)}
    assert {name for name, value in speed.items() if pd.isna(value)} == {"e01_t0000", "e02_t0000"}
    assert speed["e01_t0001"] == pytest.approx(10 / 1800)
    assert speed["e01_t0003"] == pytest.approx(16 / 3600)
    assert [speed[f"e02_t000{t}"] for t in (1, 2, 3)] == [0.0, 0.0, 0.0]


def test_predicted_stage_follows_start_age_time_and_temperature(bench: StepBench) -> None:
    prepare(bench, {"A01": {0: {1: block(200, 180)}, 4: {1: block(200, 180)}}})
    # two hours at 28.5 degC: 2 x (0.055 x 28.5 - 0.57) = 1.995 h
    assert list(run(bench)["predicted_stage_hpf"]) == pytest.approx([24.0, 25.995])


def test_start_age_in_words_leaves_the_stage_unknown_with_the_reason(bench: StepBench) -> None:
    prepare(bench, {"A01": {0: {1: block(200, 180)}}}, plate={"start_age_hpf": None, "start_age_label": "18ss"})
    row = run(bench).iloc[0]
    assert pd.isna(row["predicted_stage_hpf"])
    assert row["predicted_stage_hpf_reason"] == "start age is text: 18ss"


def test_unknown_pixel_size_makes_every_micrometre_null_and_distances_unknown(bench: StepBench) -> None:
    prepare(bench, {"A01": {0: {1: block(200, 180)}, 1: {1: block(203, 184)}}}, um_per_px=None)
    table = run(bench)
    lengths = [name for name in table.columns if name.endswith(("_um", "_um2", "um_per_s", "um_per_px"))]
    assert "surface_area_um" in lengths
    assert table[lengths].isna().all(axis=None)
    assert list(table["area_px"]) == [300, 300]
    assert table["frame_flag"].isna().all()
    assert set(table["frame_flag_reason"]) == {"unknown pixel size"}


def test_flags_that_need_a_qc_mask_are_unknown_and_exclude_no_row(bench: StepBench) -> None:
    prepare(bench, {"A01": {0: {1: block(200, 180)}}})
    row = run(bench).iloc[0]
    for name, mask in (("no_yolk_flag", "yolk"), ("focus_flag", "focus"), ("bubble_flag", "bubble")):
        assert pd.isna(row[name])
        assert row[f"{name}_reason"] == f"no {mask} mask"
    assert row["use_embryo_flag"]
    assert row["use_embryo_reason"] == "unknown: bubble_flag, focus_flag, no_yolk_flag"


def test_embryo_in_the_border_strip_is_flagged_and_not_used(bench: StepBench) -> None:
    # the strip is 150 um = 75 px wide; the first block lies inside it, the second outside
    prepare(bench, {"A01": {0: {1: block(20, 180)}}, "A02": {0: {1: block(200, 180)}}})
    table = run(bench).set_index("well")
    assert table["frame_flag"].to_dict() == {"A01": True, "A02": False}
    assert table["use_embryo_flag"].to_dict() == {"A01": False, "A02": True}
    assert table.loc["A01", "use_embryo_reason"].startswith("excluded: frame_flag")


def test_mask_flags_are_carried_as_text_and_as_one_flag(bench: StepBench) -> None:
    masks = {"A01": {0: {1: block(200, 180)}}, "A02": {0: {1: block(200, 180)}}}
    prepare(bench, masks)
    segmentation = make_segmentation(
        EXPERIMENT, masks, flags={"by_snip": {f"{EXPERIMENT}_A01_e01_t0000": {"SMALL_MASK": [{}]}}}
    )
    lay_masks(bench, segmentation, masks)
    bench.supply_table("sam2_metadata", read_table(bench.run("sam2_metadata"), SAM2), contract=SAM2)
    table = run(bench).set_index("well")
    assert table["sam2_qc_flag"].to_dict() == {"A01": True, "A02": False}
    assert table.loc["A01", "sam2_qc_flags"] == "SMALL_MASK"
    assert pd.isna(table.loc["A02", "sam2_qc_flags"])


def test_mask_of_a_chorion_says_so(bench: StepBench) -> None:
    prepare(bench, {"A01": {0: {1: block(200, 180)}}}, mask_target="chorion")
    result = bench.run("embryo_metadata")
    assert list(read_table(result, CONTRACT)["mask_target"]) == ["chorion"]
    assert result.staged.counts["chorion_masks"] == 1


def test_perturbation_key_is_joined_and_what_it_lacks_is_listed(bench: StepBench) -> None:
    masks = {"A01": {0: {1: block(200, 180)}}, "A02": {0: {1: block(200, 180)}}, "A03": {0: {1: block(200, 180)}}}
    prepare(bench, masks)
    names = {"A01": "lmx1b_ab", "A02": "wt_ab", "A03": "inj_ctrl"}
    sam2 = read_table(bench.run("sam2_metadata"), SAM2)
    sam2["genotype"] = sam2["well"].map(names)
    bench.supply_table("sam2_metadata", sam2, contract=SAM2)
    bench.supply_file("perturbation_key", KEY.encode())
    result = bench.run("embryo_metadata")
    table = read_table(result, CONTRACT).set_index("well")
    assert table["phenotype"].fillna("").to_dict() == {"A01": "lmx1b", "A02": "wt", "A03": ""}
    assert table["short_pert_name"].fillna("").to_dict() == {"A01": "lmx1b", "A02": "wt_ab", "A03": ""}
    assert (table.loc["A01", "control_flag"], table.loc["A02", "control_flag"]) == (False, True)
    assert pd.isna(table.loc["A03", "control_flag"])
    assert table.loc["A03", "master_perturbation"] == "inj_ctrl"
    assert "not in the perturbation key: inj_ctrl" in result.staged.warnings


def test_chemical_stands_before_the_genotype(bench: StepBench) -> None:
    prepare(bench, {"A01": {0: {1: block(200, 180)}}}, plate={"chem_perturbation": "lmx1b_ab"})
    bench.supply_file("perturbation_key", KEY.encode())
    row = run(bench).iloc[0]
    assert (row["master_perturbation"], row["phenotype"], row["genotype"]) == ("lmx1b_ab", "lmx1b", "wt_ab")


def test_absent_perturbation_key_leaves_nulls_and_says_so(bench: StepBench) -> None:
    prepare(bench, {"A01": {0: {1: block(200, 180)}}})
    result = bench.run("embryo_metadata")
    row = read_table(result, CONTRACT).iloc[0]
    assert row[["phenotype", "control_flag", "short_pert_name"]].isna().all()
    assert result.staged.warnings == ("no perturbation key: phenotype and control_flag are null",)


def test_overrides_by_hand_win_before_the_decision_to_use_a_row(bench: StepBench) -> None:
    prepare(bench, {"A01": {0: {1: block(20, 180)}, 1: {1: block(20, 180)}}, "A02": {0: {1: block(200, 180)}}})
    bench.supply_file(
        "curation",
        b"snip_id,embryo_id,column,value,reason\n"
        b"20250529_ctrl_A01_e01_t0000,,frame_flag,false,whole embryo in view\n"
        b",20250529_ctrl_A02_e01,dead_flag,true,seen by eye\n",
    )
    table = run(bench).set_index("snip_id")
    told = table[["frame_flag", "dead_flag", "curated", "use_embryo_flag"]]
    first = told.loc["20250529_ctrl_A01_e01_t0000"]
    assert (first["frame_flag"], first["curated"], first["use_embryo_flag"]) == (False, "frame_flag", True)
    assert not told.loc["20250529_ctrl_A01_e01_t0001", "use_embryo_flag"]
    other = table.loc["20250529_ctrl_A02_e01_t0000"]
    assert (other["dead_flag"], other["dead_flag_reason"], other["use_embryo_flag"]) == (True, "seen by eye", False)


def test_row_without_a_measured_mask_is_refused_by_name(bench: StepBench) -> None:
    prepare(bench, {"A01": {0: {1: block(200, 180)}, 1: {1: block(200, 180)}}})
    lay_masks(
        bench,
        make_segmentation(EXPERIMENT, {"A01": {0: {1: block(200, 180)}, 1: {}}}),
        {"A01": {0: {1: block(200, 180)}}},
    )
    with pytest.raises(ContractError, match="none for 20250529_ctrl_A01_e01_t0001"):
        run(bench)


def test_well_whose_picture_is_lost_fails_alone(bench: StepBench) -> None:
    prepare(bench, {"A01": {0: {1: block(200, 180)}}, "A02": {0: {1: block(200, 180)}}})
    folder = bench.layout.folders("organized_frames", experiment=EXPERIMENT)[0]
    (folder / "images" / f"{EXPERIMENT}_A02" / f"{EXPERIMENT}_A02_ch00_t0000.jpg").unlink()
    result = bench.run("embryo_metadata")
    assert list(read_table(result, CONTRACT)["well"]) == ["A01"]
    assert result.staged.status == "degraded"
    assert "A02_ch00_t0000.jpg" in result.staged.wells["A02"].reason


def test_experiment_without_an_embryo_is_a_table_without_rows(bench: StepBench) -> None:
    prepare(bench, {"A01": {0: {}}})
    table = run(bench)
    assert len(table) == 0
    assert list(table.columns) == list(CONTRACT.names)


def test_broken_perturbation_key_is_refused_naming_the_file(bench: StepBench) -> None:
    prepare(bench, {"A01": {0: {1: block(200, 180)}}})
    bench.supply_file("perturbation_key", b"\xff\xfe\x00 no table")
    with pytest.raises(PermanentError, match="perturbation_key"):
        run(bench)
