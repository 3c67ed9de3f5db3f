"""The demo plate at middle difficulty, raw Keyence tiles to final, against what its maker knows."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from morphseq_dagster.demo.plate import make_plate
from morphseq_dagster.demo.truth import OUTSIDE, PlateTruth
from morphseq_dagster.engine.tables.document import parse_document
from morphseq_dagster.engine.workspace import Workspace
from morphseq_dagster.identifiers import mint_image, mint_video
from morphseq_dagster.imaging.keyence import KeyenceSource
from morphseq_dagster.imaging.parameters import FocusSettings
from morphseq_dagster.morphseq import PIPELINE
from morphseq_dagster.morphseq.contracts.ff_images import FfImages, FrameEntry
from morphseq_dagster.morphseq.contracts.segmentations import SegmentationDocument
from morphseq_dagster.morphseq.paths import raw_folder
from morphseq_dagster.resources.executors import make_executor
from morphseq_dagster.segmentation.rle import Rle, decode
from tests.support.experiments import STEPS, ChainRun, open_data_root, read_artifacts, run_experiment
from tests.support.plate_truth import read_mask, read_planes, truth_mask_on_canvas
from tests.support.slurm_cluster import start_cluster

EXPERIMENT = "20240418_demo"


@dataclass(frozen=True)
class Plate:
    workspace: Workspace
    truth: PlateTruth
    truth_folder: Path
    run: ChainRun

    def frames(self) -> dict[tuple[str, int], FrameEntry]:
        path = self.workspace.output("ff_images", experiment=EXPERIMENT)
        manifest = parse_document(FfImages, path.read_bytes(), where=str(path))
        return {(frame.well, frame.time_int): frame for frame in manifest.frames}

    def table(self, step: str) -> pd.DataFrame:
        return pd.read_csv(self.workspace.output(step, experiment=EXPERIMENT), dtype={"experiment_id": str})

    def true_mask(self, well: str, *, time_int: int, canvas: tuple[int, int]) -> NDArray[np.bool_]:
        labels = read_mask(self.truth_folder, well=well, time_int=time_int)
        return truth_mask_on_canvas(labels, orientation=self.truth.orientation, canvas_shape=canvas) > 0


@pytest.fixture(scope="module")
def plate(tmp_path_factory: pytest.TempPathFactory) -> Plate:
    data_root = tmp_path_factory.mktemp("demo") / "root"
    folder = data_root.parent / "truth"
    truth = make_plate(data_root, truth_folder=folder, difficulty="middle")
    workspace = open_data_root(data_root)
    return Plate(workspace, truth, folder, run_experiment(workspace, EXPERIMENT))


def test_masks_overlap_the_true_bodies(plate: Plate) -> None:
    path = plate.workspace.output("sam2_segmentations", experiment=EXPERIMENT)
    document = parse_document(SegmentationDocument, path.read_bytes(), where=str(path))
    overlaps: dict[str, float] = {}
    for well in plate.truth.wells:
        video = document.experiments[EXPERIMENT].videos[mint_video(EXPERIMENT, well=well.well)]
        for frame in well.frames if well.kind != "empty" else ():
            image = video.image_ids[mint_image(EXPERIMENT, well=well.well, frame=frame.time_int)]
            masks = [
                decode(Rle.from_base64(e.segmentation.counts, size=e.segmentation.size)) for e in image.embryos.values()
            ]
            canvas = plate.frames()[well.well, frame.time_int]
            true = plate.true_mask(well.well, time_int=frame.time_int, canvas=(canvas.height_px, canvas.width_px))
            iou = [np.count_nonzero(m & true) / np.count_nonzero(m | true) for m in masks]
            overlaps[image.image_id] = iou[0] if len(iou) == 1 else 0.0
    mean, worst = np.mean(list(overlaps.values())), min(overlaps, key=lambda name: overlaps[name])
    figures = f"mean IoU {mean:.4f} of {len(overlaps)} masks, the worst {overlaps[worst]:.3f} in {worst}"
    assert len(overlaps) == 42, figures
    assert mean >= 0.90, figures


def test_tiles_are_placed_within_a_pixel(plate: Plate) -> None:
    errors = []
    for well in plate.truth.wells:
        for frame in well.frames:
            found = plate.frames()[well.well, frame.time_int].tiles
            true = np.array(frame.tile_offsets_px, float)
            measured = np.array([(tile.row_px, tile.column_px) for tile in found])
            errors.append(np.abs((measured - measured[0]) - (true - true[0])).max())
    assert len(errors) == 48
    assert max(errors) <= 1.0, f"largest error {max(errors):.2f} px, mean {np.mean(errors):.3f} px"


def test_sharpest_plane_is_chosen_inside_the_embryo(plate: Plate) -> None:
    raw = raw_folder(plate.workspace.layout, "Keyence", experiment=EXPERIMENT)
    source = KeyenceSource(raw, settings=FocusSettings())
    scan = source.scan()
    right = inside = 0
    for well in ("A01", "A04", "B01", "B02"):
        frame = scan.frames_of(well)[2]
        focused = source.full_focus(frame, settings=FocusSettings())
        planes = focused.plane_index
        assert planes is not None
        true = truth_mask_on_canvas(
            read_planes(plate.truth_folder, well=well, time_int=frame.time_int),
            orientation=plate.truth.orientation,
            canvas_shape=(planes.shape[0], planes.shape[1]),
            fill=OUTSIDE,
        )
        body = true != OUTSIDE
        inside += int(np.count_nonzero(body))
        right += int(np.count_nonzero(planes[body] == true[body]))
    assert right / inside >= 0.95, f"{right / inside:.4f} of {inside} pixels"


def test_death_is_found_within_one_frame_and_nobody_else_dies(plate: Plate) -> None:
    table = plate.table("qc_staged")
    dying = table[table["dead_inflection_time_int"].notna()]
    (well,) = [well for well in plate.truth.wells if well.death_time_int is not None]
    assert set(dying["embryo_id"]) == {well.embryo_id}
    (inflection,) = set(dying["dead_inflection_time_int"])
    # The inflection is the last frame before the decline.
    assert abs(inflection + 1 - well.death_time_int) <= 1, f"{inflection + 1:.0f}, true {well.death_time_int}"
    dead = table[table["dead_flag"].fillna(False).astype(bool)]
    assert set(dead["embryo_id"]) == {well.embryo_id}
    assert abs(dead["time_int"].min() - well.death_time_int) <= 1


def test_empty_well_is_empty(plate: Plate) -> None:
    (empty,) = [well.well for well in plate.truth.wells if well.kind == "empty"]
    assert empty not in set(plate.table("sam2_metadata")["well"])
    assert empty not in set(plate.table("embryo_latents_final")["well"])
    path = plate.workspace.output("sam2_segmentations", experiment=EXPERIMENT)
    video = (
        parse_document(SegmentationDocument, path.read_bytes(), where="")
        .experiments[EXPERIMENT]
        .videos[mint_video(EXPERIMENT, well=empty)]
    )
    assert (video.sam2_success, video.num_embryos) == (True, 0)
    assert video.frames_processed == 6


def test_final_table_has_one_row_with_latents_per_rendered_embryo_and_frame(plate: Plate) -> None:
    table = plate.table("embryo_latents_final")
    rendered = {
        (well.embryo_id, frame.time_int) for well in plate.truth.wells if well.embryo_id for frame in well.frames
    }
    assert set(zip(table["embryo_id"], table["time_int"], strict=True)) == rendered
    assert len(table) == len(rendered) == 42
    assert table.filter(like="z_mu_").notna().all(axis=None)


def test_ages_and_areas_of_the_table_are_those_of_the_plan(plate: Plate) -> None:
    table = plate.table("embryo_latents_final").set_index(["well", "time_int"])
    for well in plate.truth.wells:
        for frame in well.frames if well.kind == "embryo" else ():
            row = table.loc[(well.well, frame.time_int)]
            assert row["predicted_stage_hpf"] == pytest.approx(frame.age_hpf, abs=0.1)
    areas = [
        (table.loc[(well.well, frame.time_int), "area_px"], frame.body_area_px)
        for well in plate.truth.wells
        for frame in well.frames
        if frame.body_area_px
    ]
    found, true = np.array(areas, float).T
    assert np.median(found / true) == pytest.approx(1.0, abs=0.06)


@pytest.mark.slurm
@pytest.mark.parametrize("where", [pytest.param("subprocess", marks=pytest.mark.slow), "slurm"])
def test_plate_has_the_same_bytes_wherever_it_ran(plate: Plate, shared: Path, tmp_path: Path, where: str) -> None:
    make_plate(tmp_path / "root", truth_folder=tmp_path / "truth", difficulty="middle")
    elsewhere = open_data_root(tmp_path / "root")
    settings = None
    if where == "slurm":
        cluster = start_cluster(shared / "slurm" / "local-slurm.sh", cpus="16", killwait="2", overmemorykill="1")
        settings = cluster.settings()
    run = run_experiment(
        elsewhere,
        EXPERIMENT,
        place=make_executor(where, pipeline=PIPELINE, data_root=elsewhere.data_root, slurm=settings),
    )
    assert run.computed == STEPS
    assert {record.place for record in run.records.values()} == {where}
    assert read_artifacts(elsewhere, EXPERIMENT) == read_artifacts(plate.workspace, EXPERIMENT)
