"""The table of 43 columns: exact order, one row per embryo and frame, flags in fixed order (spec 1.10)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from morphseq_dagster.errors import ContractError
from morphseq_dagster.morphseq.contracts.entities import track
from morphseq_dagster.morphseq.contracts.experiment_metadata import (
    ExperimentInfo,
    ExperimentMetadata,
    ImageInfo,
    VideoInfo,
)
from morphseq_dagster.morphseq.contracts.sam2_metadata import CONTRACT
from morphseq_dagster.testing.documents import Masks, draw_block, lay_masks, make_segmentation
from morphseq_dagster.testing.step_bench import StepBench, read_table

EXPERIMENT = "20250529_ctrl"
SHAPE = (40, 60)
# columns 6..35 of 60, rows 4..13 of 40; inclusive maxima
MASK = draw_block(SHAPE, rows=(4, 14), columns=(6, 36))

# Written out from the specification's table, number by number.
COLUMNS = [
    "image_id",
    "embryo_id",
    "snip_id",
    "frame_index",
    "area_px",
    "bbox_x_min",
    "bbox_y_min",
    "bbox_x_max",
    "bbox_y_max",
    "mask_confidence",
    "exported_mask_path",
    "experiment_id",
    "video_id",
    "is_seed_frame",
    "Height (um)",
    "Height (px)",
    "Width (um)",
    "Width (px)",
    "BF Channel",
    "Objective",
    "Time (s)",
    "Time Rel (s)",
    "height_um",
    "height_px",
    "width_um",
    "width_px",
    "bf_channel",
    "objective",
    "raw_time_s",
    "relative_time_s",
    "microscope",
    "nd2_series_num",
    "medium",
    "genotype",
    "chem_perturbation",
    "start_age_hpf",
    "embryos_per_well",
    "temperature",
    "well_qc_flag",
    "well",
    "time_int",
    "time_string",
    "sam2_qc_flags",
]


def frame_info(*, time_s: float, um_per_px: float | None = 2.0) -> dict[str, Any]:
    height, width = (None, None) if um_per_px is None else (SHAPE[0] * um_per_px, SHAPE[1] * um_per_px)
    info = {
        "Height (um)": height,
        "Height (px)": SHAPE[0],
        "Width (um)": width,
        "Width (px)": SHAPE[1],
        "BF Channel": 0,
        "Objective": None,
        "Time (s)": 5000.0 + time_s,
        "Time Rel (s)": time_s,
        "microscope": "Frames",
        "nd2_series_num": None,
    }
    aliases = ("height_um", "height_px", "width_um", "width_px", "bf_channel", "objective", "raw_time_s")
    return info | dict(zip((*aliases, "relative_time_s"), list(info.values())[:8], strict=True))


def supply(
    bench: StepBench,
    masks: Masks,
    *,
    flags: Mapping[str, object] | None = None,
    um_per_px: float | None = 2.0,
    failed: dict[str, str] | None = None,
) -> None:
    document = make_segmentation(EXPERIMENT, masks, flags=flags, failed=failed)
    lay_masks(bench, document, masks)
    videos = {
        f"{EXPERIMENT}_{well}": VideoInfo(
            video_id=f"{EXPERIMENT}_{well}",
            well_id=well,
            processed_jpg_images_dir="",
            total_frames=len(by_time),
            image_size=SHAPE,
            source_well_metadata_csv="",
            medium="E3",
            genotype="wt_ab",
            chem_perturbation=None,
            start_age_hpf=24.0,
            embryos_per_well=1.0,
            temperature=28.5,
            well_qc_flag=None,
            image_ids={
                f"{EXPERIMENT}_{well}_ch00_t{t:04d}": ImageInfo(
                    frame_index=index,
                    raw_image_data_info=frame_info(time_s=1800.0 * t, um_per_px=um_per_px),
                    processed_image_path="",
                )
                for index, t in enumerate(sorted(by_time))
            },
        )
        for well, by_time in masks.items()
    }
    bench.supply(
        "experiment_metadata",
        ExperimentMetadata(
            experiments={EXPERIMENT: ExperimentInfo(experiment_id=EXPERIMENT, videos=videos)},
            entity_tracker=track("module_0_data_organization", experiment=EXPERIMENT),
        ),
    )


def test_the_43_columns_stand_in_the_specification_s_order(bench: StepBench) -> None:
    supply(bench, {"A01": {0: {1: MASK}}})
    staged = bench.run("sam2_metadata").staged
    assert len(COLUMNS) == 43
    assert staged.staged_primary.read_text().splitlines()[0].split(",") == COLUMNS


def test_every_value_of_a_row(bench: StepBench) -> None:
    supply(bench, {"A01": {0: {1: MASK}, 7: {1: MASK}}})
    row = read_table(bench.run("sam2_metadata"), CONTRACT).iloc[1]
    expected: dict[str, Any] = {
        "image_id": "20250529_ctrl_A01_ch00_t0007",
        "embryo_id": "20250529_ctrl_A01_e01",
        "snip_id": "20250529_ctrl_A01_e01_t0007",
        "frame_index": 1,
        "area_px": 300.0,
        "bbox_x_min": 6 / 60,
        "bbox_y_min": 4 / 40,
        "bbox_x_max": 35 / 60,
        "bbox_y_max": 13 / 40,
        "mask_confidence": 0.75,
        "exported_mask_path": "20250529_ctrl_A01_ch00_t0007_masks_emnum_1.png",
        "experiment_id": "20250529_ctrl",
        "video_id": "20250529_ctrl_A01",
        "is_seed_frame": False,
        "Height (um)": 80.0,
        "Height (px)": 40,
        "Width (um)": 120.0,
        "Width (px)": 60,
        "BF Channel": "0",
        "Time (s)": 17600.0,
        "Time Rel (s)": 12600.0,
        "height_um": 80.0,
        "height_px": 40,
        "width_um": 120.0,
        "width_px": 60,
        "bf_channel": "0",
        "raw_time_s": 17600.0,
        "relative_time_s": 12600.0,
        "microscope": "Frames",
        "medium": "E3",
        "genotype": "wt_ab",
        "start_age_hpf": 24.0,
        "embryos_per_well": 1.0,
        "temperature": 28.5,
        "well": "A01",
        "time_int": 7,
        "time_string": "T0007",
    }
    blank = {"Objective", "objective", "nd2_series_num", "chem_perturbation", "well_qc_flag", "sam2_qc_flags"}
    assert set(expected) | blank == set(COLUMNS)
    assert {name: row[name] for name in expected} == pytest.approx(expected)
    assert row[sorted(blank)].isna().all()


def test_rows_are_sorted_by_well_time_and_embryo(bench: StepBench) -> None:
    other = draw_block(SHAPE, rows=(20, 30), columns=(6, 36))
    supply(bench, {"B01": {0: {2: other, 1: MASK}}, "A01": {10: {1: MASK}, 9: {1: MASK}}})
    table = read_table(bench.run("sam2_metadata"), CONTRACT)
    assert [s[len(EXPERIMENT) + 1 :] for s in table["snip_id"]] == [
        "A01_e01_t0009",
        "A01_e01_t0010",
        "B01_e01_t0000",
        "B01_e02_t0000",
    ]


def test_flags_are_joined_in_fixed_order_and_image_flags_are_not_carried(bench: StepBench) -> None:
    snip = f"{EXPERIMENT}_A01_e01_t0000"
    raised = {name: [{}] for name in ("SMALL_MASK", "EMPTY_MASK", "MASK_ON_EDGE", "HIGH_SEGMENTATION_VAR_SNIP")}
    flags = {
        "by_snip": {snip: raised},
        "by_image": {f"{EXPERIMENT}_A01_ch00_t0000": {"OVERLAPPING_MASKS": [{}]}},
    }
    supply(bench, {"A01": {0: {1: MASK}}}, flags=flags)
    (text,) = read_table(bench.run("sam2_metadata"), CONTRACT)["sam2_qc_flags"]
    assert text == "HIGH_SEGMENTATION_VAR_SNIP,MASK_ON_EDGE,SMALL_MASK,EMPTY_MASK"


def test_unknown_pixel_size_leaves_micrometres_null(bench: StepBench) -> None:
    supply(bench, {"A01": {0: {1: MASK}}}, um_per_px=None)
    row = read_table(bench.run("sam2_metadata"), CONTRACT).iloc[0]
    assert row[["Height (um)", "Width (um)", "height_um", "width_um"]].isna().all()
    assert row["Height (px)"] == 40


def test_frames_without_an_embryo_and_failed_wells_have_no_row(bench: StepBench) -> None:
    supply(bench, {"A01": {0: {1: MASK}, 1: {}}}, failed={"B02": "lost"})
    result = bench.run("sam2_metadata")
    assert list(read_table(result, CONTRACT)["time_int"]) == [0]
    assert result.staged.counts == {"rows": 1, "embryos": 1}


def test_well_without_label_pictures_is_left_out_and_said_so(bench: StepBench) -> None:
    supply(bench, {"A01": {0: {1: MASK}}})
    masks = {"A01": {0: {1: MASK}}, "B02": {0: {1: MASK}}}
    manifest = lay_masks(bench, make_segmentation(EXPERIMENT, masks), {"A01": masks["A01"]})
    bench.supply("exported_masks", manifest.model_copy(update={"failed_wells": {"B02": "run lengths cut short"}}))
    result = bench.run("sam2_metadata")
    assert list(read_table(result, CONTRACT)["well"]) == ["A01"]
    (warning,) = result.staged.warnings
    assert "B02" in warning
    assert "run lengths cut short" in warning


def test_experiment_without_any_embryo_is_a_table_without_rows(bench: StepBench) -> None:
    supply(bench, {"A01": {0: {}}})
    staged = bench.run("sam2_metadata").staged
    assert staged.staged_primary.read_text().splitlines() == [",".join(COLUMNS)]


def test_masks_out_of_step_with_the_segmentation_are_refused_picture_by_picture(bench: StepBench) -> None:
    two = {1: MASK, 2: draw_block(SHAPE, rows=(20, 30), columns=(6, 36))}
    supply(bench, {"A01": {0: {1: MASK}, 1: {1: MASK}, 2: {1: MASK}}})
    bench.supply("sam2_segmentations", make_segmentation(EXPERIMENT, {"A01": {0: two, 1: {1: MASK}, 2: two}}))
    with pytest.raises(ContractError) as caught:
        bench.run("sam2_metadata")
    assert "A01_ch00_t0000: 2 embryos, 1 exported" in caught.value.found
    assert "A01_ch00_t0002: 2 embryos, 1 exported" in caught.value.found
    assert "t0001" not in caught.value.found
    assert EXPERIMENT in caught.value.remedy


def test_numeric_looking_ids_stay_text(tmp_path: Path) -> None:
    bench = StepBench(tmp_path / "numeric", experiment="20240418")
    masks = {"A01": {0: {1: MASK}}}
    document = make_segmentation("20240418", masks)
    lay_masks(bench, document, masks)
    empty = ExperimentMetadata(
        experiments={"20240418": ExperimentInfo(experiment_id="20240418", videos={})},
        entity_tracker=track("module_0_data_organization", experiment="20240418"),
    )
    bench.supply("experiment_metadata", empty)
    with pytest.raises(ContractError, match=r"Height \(px\)"):
        bench.run("sam2_metadata")  # a frame without geometry is no row of this table
    table = pd.DataFrame({"experiment_id": ["20240418"]})
    assert CONTRACT.conform(table)["experiment_id"].dtype == "string"
    assert np.all(CONTRACT.conform(table)["experiment_id"] == "20240418")
