"""No more is computed than changed: second runs, touched files, edited sheets, thresholds, growth and repair."""

from __future__ import annotations

import dataclasses
import os
import shutil
import time
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from morphseq_dagster.engine.workspace import Workspace
from morphseq_dagster.morphseq.paths import raw_folder
from tests.support.experiments import (
    FRAMES_EXPERIMENT,
    FRAMES_WELLS,
    STEPS,
    edit_workbook,
    make_small_frames,
    open_data_root,
    read_artifacts,
    run_experiment,
    workbook_path,
)

IMAGE_SIDE = {
    "raw_manifest", "ff_images", "organized_frames", "gdino_raw", "gdino_detections", "sam2_tracks",
    "sam2_segmentations", "exported_masks", "qc_masks", "snips", "latents",
}  # fmt: skip


@pytest.fixture
def workspace(frames_root: Path) -> Workspace:
    return open_data_root(frames_root)


def test_second_run_computes_nothing(workspace: Workspace) -> None:
    run = run_experiment(workspace, FRAMES_EXPERIMENT)
    assert run.computed == ()
    assert set(run.records) == set(STEPS)


def test_second_run_touches_no_published_file(workspace: Workspace) -> None:
    def look() -> dict[str, tuple[int, int]]:
        files = (path for path in workspace.data_root.rglob("*") if path.is_file() and ".morphseq" not in path.parts)
        return {str(path): (path.stat().st_mtime_ns, path.stat().st_ino) for path in files}

    run_experiment(workspace, FRAMES_EXPERIMENT)
    before = look()
    run_experiment(workspace, FRAMES_EXPERIMENT)
    assert look() == before


def test_touching_every_input_computes_nothing_but_the_raw_manifest_s_look(workspace: Workspace) -> None:
    before = read_artifacts(workspace, FRAMES_EXPERIMENT)
    now = time.time() + 100
    for folder in ("raw_image_data", "metadata/well_metadata"):
        for path in (workspace.data_root / folder).rglob("*"):
            os.utime(path, (now, now))
    assert run_experiment(workspace, FRAMES_EXPERIMENT).computed == ("raw_manifest",)
    assert run_experiment(workspace, FRAMES_EXPERIMENT).computed == ()
    assert read_artifacts(workspace, FRAMES_EXPERIMENT) == before


def test_spreadsheet_edit_computes_the_tables_and_no_picture(workspace: Workspace) -> None:
    edit_workbook(workbook_path(workspace.data_root, FRAMES_EXPERIMENT), sheet="genotype", well="A01", value="mutant")
    run = run_experiment(workspace, FRAMES_EXPERIMENT)
    assert run.computed == (
        "plate_metadata",
        "built_metadata",
        "experiment_metadata",
        "sam2_metadata",
        "embryo_metadata",
        "qc_staged",
        "embryo_latents_final",
    )
    assert not set(run.computed) & IMAGE_SIDE
    table = pd.read_csv(workspace.output("embryo_latents_final", experiment=FRAMES_EXPERIMENT))
    assert set(table.loc[table["well"] == "A01", "genotype"]) == {"mutant"}
    assert set(table.loc[table["well"] == "A02", "genotype"]) == {"wt_ab"}


def test_spreadsheet_edit_of_a_well_without_pictures_stops_at_the_plate(workspace: Workspace) -> None:
    edit_workbook(workbook_path(workspace.data_root, FRAMES_EXPERIMENT), sheet="genotype", well="H12", value="mutant")
    assert run_experiment(workspace, FRAMES_EXPERIMENT).computed == ("plate_metadata", "built_metadata")


def write_recipe(workspace: Workspace, text: str) -> None:
    path = workspace.layout.recipes(FRAMES_EXPERIMENT)[1]
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)


def test_threshold_that_drops_nothing_segments_nothing_again(workspace: Workspace) -> None:
    """The document names its threshold, so it changes; the detections in it do not, and the masks stay the same."""
    write_recipe(workspace, "[gdino_detections]\nconfidence_threshold = 0.44\n")
    run = run_experiment(workspace, FRAMES_EXPERIMENT)
    assert run.computed == ("gdino_detections", "sam2_tracks")
    assert run.wells_computed() == {"sam2_tracks": 0}


def test_threshold_that_drops_a_detection_computes_the_filter_and_what_follows(tmp_path: Path) -> None:
    data_root = tmp_path / "root"
    make_small_frames(data_root)
    workspace = open_data_root(data_root)
    raw = raw_folder(workspace.layout, "Frames", experiment=FRAMES_EXPERIMENT)
    for t in range(3):  # both embryos in the pictures of well A01
        sides = [cv2.imread(str(raw / f"{well}_t{t:04d}.png"), cv2.IMREAD_GRAYSCALE) for well in ("A01", "A02")]
        cv2.imwrite(str(raw / f"A01_t{t:04d}.png"), np.hstack([side for side in sides if side is not None]))
    run = run_experiment(workspace, FRAMES_EXPERIMENT)
    assert run.records["sam2_tracks"].counts["embryos"] == 3
    # Boxes that overlap by nothing at all are now too much.
    write_recipe(workspace, "[gdino_detections]\niou_threshold = 0.0\n")
    run = run_experiment(workspace, FRAMES_EXPERIMENT)
    assert run.computed == (
        "gdino_detections",
        "sam2_tracks",
        "sam2_segmentations",
        "exported_masks",
        "sam2_metadata",
        "embryo_metadata",
        "snips",
        "qc_staged",
        "latents",
        "embryo_latents_final",
    )
    counts = run.wells_computed()
    assert counts["sam2_tracks"] == counts["exported_masks"] == 1, "the well that lost a detection"
    assert run.records["sam2_tracks"].counts["embryos"] == 2
    masks = workspace.layout.folders("exported_masks", experiment=FRAMES_EXPERIMENT)[0] / "masks"
    assert {path.name.rpartition("_emnum_")[2] for path in masks.iterdir()} == {"1.png"}, "no mask of both is left"


def test_limit_of_a_flag_computes_flags_and_tables(workspace: Workspace) -> None:
    write_recipe(workspace, "[sam2_segmentations.flags]\nsmall_share_max = 0.9\nlarge_share_min = 1.0\n")
    run = run_experiment(workspace, FRAMES_EXPERIMENT)
    assert run.computed == (
        "sam2_segmentations",
        "exported_masks",
        "sam2_metadata",
        "embryo_metadata",
        "qc_staged",
        "embryo_latents_final",
    )
    assert run.wells_computed()["exported_masks"] == 0


def test_policy_of_rows_computes_the_last_two_tables(workspace: Workspace) -> None:
    write_recipe(workspace, '[qc_staged.use_embryo]\npolicy = "build03_legacy"\n')
    assert run_experiment(workspace, FRAMES_EXPERIMENT).computed == ("qc_staged", "embryo_latents_final")


def test_recipe_that_says_the_defaults_computes_nothing(workspace: Workspace) -> None:
    write_recipe(workspace, "[gdino_detections]\nconfidence_threshold = 0.45\n")
    assert run_experiment(workspace, FRAMES_EXPERIMENT).computed == ()


def test_recipe_of_another_experiment_computes_nothing(workspace: Workspace) -> None:
    path = workspace.layout.recipes(f"{FRAMES_EXPERIMENT}_extras")[1]
    path.parent.mkdir(exist_ok=True)
    path.write_text("[gdino_detections]\nconfidence_threshold = 0.999\n")
    assert run_experiment(workspace, FRAMES_EXPERIMENT).computed == ()


# growth and repair


def add_well(data_root: Path) -> None:
    """Bring the raw files of one more well; the pictures there before keep bytes and time."""
    plan = (*FRAMES_WELLS, dataclasses.replace(FRAMES_WELLS[1], well="B01", start_age_hpf=22.0))
    larger = data_root.parent / "larger"
    make_small_frames(larger, wells=plan)
    raw = data_root / "raw_image_data" / "Frames" / FRAMES_EXPERIMENT
    for path in (larger / "raw_image_data" / "Frames" / FRAMES_EXPERIMENT).iterdir():
        there = raw / path.name
        if path.suffix == ".png" and there.exists():
            assert there.read_bytes() == path.read_bytes()
        else:
            shutil.copyfile(path, there)
    shutil.copyfile(workbook_path(larger, FRAMES_EXPERIMENT), workbook_path(data_root, FRAMES_EXPERIMENT))


def test_one_more_well_computes_its_own_pictures_only(workspace: Workspace) -> None:
    before = read_artifacts(workspace, FRAMES_EXPERIMENT)
    add_well(workspace.data_root)
    run = run_experiment(workspace, FRAMES_EXPERIMENT)
    counts = run.wells_computed()
    for step in ("ff_images", "organized_frames", "gdino_raw", "sam2_tracks", "exported_masks"):
        assert counts[step] == 1, counts
    after = read_artifacts(workspace, FRAMES_EXPERIMENT)
    assert {name for name in before if name.endswith((".jpg", ".png")) and "_A0" in name} <= set(after)
    table = pd.read_csv(workspace.output("embryo_latents_final", experiment=FRAMES_EXPERIMENT))
    assert table.groupby("well").size().to_dict() == {"A01": 3, "A02": 3, "B01": 3}


def test_grown_experiment_has_the_bytes_of_one_that_was_complete_from_the_start(
    workspace: Workspace, tmp_path: Path
) -> None:
    add_well(workspace.data_root)
    run_experiment(workspace, FRAMES_EXPERIMENT)
    whole = open_data_root(tmp_path / "larger")
    run_experiment(whole, FRAMES_EXPERIMENT)
    assert read_artifacts(workspace, FRAMES_EXPERIMENT) == read_artifacts(whole, FRAMES_EXPERIMENT)


def test_one_more_frame_of_one_well_computes_that_well_only(workspace: Workspace) -> None:
    raw = raw_folder(workspace.layout, "Frames", experiment=FRAMES_EXPERIMENT)
    shutil.copyfile(raw / "A02_t0002.png", raw / "A02_t0003.png")
    with (raw / "frames.csv").open("a") as table:
        table.write("A02,3,5412.5,A02_t0003.png,6.5\n")
    counts = run_experiment(workspace, FRAMES_EXPERIMENT).wells_computed()
    for step in ("ff_images", "organized_frames", "gdino_raw", "sam2_tracks", "exported_masks"):
        assert counts[step] == 1, counts


def test_failing_well_degrades_the_run_and_repaired_it_is_computed_alone(
    workspace: Workspace, finished_frames: Path
) -> None:
    raw = raw_folder(workspace.layout, "Frames", experiment=FRAMES_EXPERIMENT)
    good = (raw / "A02_t0001.png").read_bytes()
    (raw / "A02_t0001.png").write_bytes(good[: len(good) // 2])
    run = run_experiment(workspace, FRAMES_EXPERIMENT)
    record = run.records["ff_images"]
    assert record.status == "degraded"
    assert record.wells["A02"].status == "failed"
    assert "A02_t0001.png" in record.wells["A02"].reason
    assert not record.wells["A02"].transient
    table = pd.read_csv(workspace.output("embryo_latents_final", experiment=FRAMES_EXPERIMENT))
    assert set(table["well"]) == {"A01"}
    assert run_experiment(workspace, FRAMES_EXPERIMENT).computed == (), "a permanent failure is not tried again"
    (raw / "A02_t0001.png").write_bytes(good)
    counts = run_experiment(workspace, FRAMES_EXPERIMENT).wells_computed()
    for step in ("ff_images", "organized_frames", "gdino_raw", "sam2_tracks", "exported_masks"):
        assert counts[step] == 1, counts
    first = read_artifacts(open_data_root(finished_frames), FRAMES_EXPERIMENT)
    assert read_artifacts(workspace, FRAMES_EXPERIMENT) == first
