"""The experiment's document: videos and images with frame geometry and plate values (spec 1.6)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from morphseq_dagster.morphseq.contracts.built_metadata import CONTRACT as FRAMES
from morphseq_dagster.morphseq.contracts.experiment_metadata import ExperimentMetadata, VideoInfo
from morphseq_dagster.testing.documents import lay_frames
from morphseq_dagster.testing.step_bench import StepBench, read_document

EXPERIMENT = "20250529_ctrl"
GREY = np.full((40, 60), 200, np.uint8)


def frame_row(well: str, time_int: int, **values: object) -> dict[str, Any]:
    return dict.fromkeys(FRAMES.names) | {
        "well_id": f"{EXPERIMENT}_{well}",
        "well": well,
        "time_int": time_int,
        "time_string": f"T{time_int:04d}",
        "Height (um)": 80.0,
        "Height (px)": 40,
        "Width (um)": 120.0,
        "Width (px)": 60,
        "um_per_px": 2.0,
        "BF Channel": 0,
        "Time (s)": 1000.0 + time_int,
        "Time Rel (s)": float(time_int),
        "microscope": "Frames",
        "experiment_date": EXPERIMENT,
        "genotype": "wt_ab",
        "start_age_hpf": 24.0,
        "embryos_per_well": 1.0,
        "temperature": 28.5,
        **values,
    }


@pytest.fixture
def video(bench: StepBench) -> VideoInfo:
    lay_frames(bench, {"A01": {0: GREY, 4: GREY}})
    rows = [frame_row("A01", 0), frame_row("A01", 4), frame_row("A01", 9)]
    bench.supply_table("built_metadata", pd.DataFrame(rows), contract=FRAMES)
    document = read_document(bench.run("experiment_metadata"), ExperimentMetadata)
    assert list(document.experiments) == [EXPERIMENT]
    return document.experiments[EXPERIMENT].videos[f"{EXPERIMENT}_A01"]


def test_video_carries_the_plate_s_values_and_its_frames(video: VideoInfo) -> None:
    assert video.well_id == "A01"
    assert (video.genotype, video.start_age_hpf, video.embryos_per_well) == ("wt_ab", 24.0, 1.0)
    assert (video.temperature, video.medium, video.well_qc_flag) == (28.5, None, None)
    assert video.total_frames == 2
    assert video.image_size == (40, 60)
    assert list(video.image_ids) == [f"{EXPERIMENT}_A01_ch00_t0000", f"{EXPERIMENT}_A01_ch00_t0004"]
    assert [info.frame_index for info in video.image_ids.values()] == [0, 1]


def test_paths_are_relative_to_the_data_root(video: VideoInfo) -> None:
    folder = f"sam2_pipeline_files/raw_data_organized/{EXPERIMENT}/images/{EXPERIMENT}_A01"
    assert video.processed_jpg_images_dir == folder
    assert video.source_well_metadata_csv == f"metadata/built_metadata_files/{EXPERIMENT}_metadata.csv"
    first = video.image_ids[f"{EXPERIMENT}_A01_ch00_t0000"]
    assert first.processed_image_path == f"{folder}/{EXPERIMENT}_A01_ch00_t0000.jpg"


def test_frame_values_stand_under_both_spellings(video: VideoInfo) -> None:
    info = video.image_ids[f"{EXPERIMENT}_A01_ch00_t0004"].raw_image_data_info
    pairs = {
        "Height (um)": "height_um",
        "Height (px)": "height_px",
        "Width (um)": "width_um",
        "Width (px)": "width_px",
        "BF Channel": "bf_channel",
        "Objective": "objective",
        "Time (s)": "raw_time_s",
        "Time Rel (s)": "relative_time_s",
    }
    assert all(info[name] == info[alias] for name, alias in pairs.items())
    assert (info["Height (um)"], info["Width (px)"], info["Time (s)"]) == (80.0, 60, 1004.0)
    assert info["Objective"] is None


def test_frame_without_a_row_has_no_values_rather_than_another_frame_s(bench: StepBench) -> None:
    lay_frames(bench, {"A01": {0: GREY, 4: GREY}})
    table = pd.DataFrame([frame_row("A01", 0), frame_row("B01", 4)])
    bench.supply_table("built_metadata", table, contract=FRAMES)
    document = read_document(bench.run("experiment_metadata"), ExperimentMetadata)
    images = document.experiments[EXPERIMENT].videos[f"{EXPERIMENT}_A01"].image_ids
    assert images[f"{EXPERIMENT}_A01_ch00_t0004"].raw_image_data_info == {}


def test_tracker_lists_exactly_what_the_document_holds(bench: StepBench) -> None:
    lay_frames(bench, {"A01": {0: GREY}, "B02": {0: GREY}})
    table = pd.DataFrame([frame_row("A01", 0), frame_row("B02", 0)])
    bench.supply_table("built_metadata", table, contract=FRAMES)
    document = read_document(bench.run("experiment_metadata"), ExperimentMetadata)
    entities = document.entity_tracker.entities
    assert entities.experiments == (EXPERIMENT,)
    assert entities.videos == (f"{EXPERIMENT}_A01", f"{EXPERIMENT}_B02")
    assert entities.images == (f"{EXPERIMENT}_A01_ch00_t0000", f"{EXPERIMENT}_B02_ch00_t0000")
    assert entities.embryos == entities.snips == ()
