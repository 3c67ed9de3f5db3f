"""Snips: one aligned picture per embryo and frame, named by snip id, or the reason why there is none."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from morphseq_dagster.engine.tables.document import parse_document
from morphseq_dagster.imaging.pictures import read_grey
from morphseq_dagster.morphseq.contracts.snips import Snips
from morphseq_dagster.testing.documents import Mask, lay_frames, lay_masks, make_qc_masks, make_segmentation
from morphseq_dagster.testing.step_bench import StepBench, read_document
from tests.support.experiments import FRAMES_EXPERIMENT, open_data_root

EXPERIMENT = "20250529_ctrl"
SHAPE = (320, 320)


def ellipse(*, row: int, column: int, along: int = 90, across: int = 30) -> Mask:
    mask = np.zeros(SHAPE, np.uint8)
    cv2.ellipse(mask, (column, row), (along, across), 0, 0, 360, 1, -1)
    return mask.astype(np.bool_)


def photograph(*masks: Mask) -> NDArray[np.uint8]:
    rng = np.random.default_rng(5)
    picture = np.full(SHAPE, 200.0) + rng.normal(0, 3, SHAPE)
    for mask in masks:
        picture[mask] -= 80
    return picture.clip(0, 255).astype(np.uint8)


def supply(bench: StepBench, masks: dict[str, dict[int, dict[int, Mask]]], *, um_per_px: float | None = 6.5) -> None:
    pictures = {well: {t: photograph(*m.values()) for t, m in by_time.items()} for well, by_time in masks.items()}
    lay_frames(bench, pictures, um_per_px=um_per_px)
    lay_masks(bench, make_segmentation(EXPERIMENT, masks), masks)
    bench.supply("qc_masks", make_qc_masks(EXPERIMENT))


def test_every_embryo_and_frame_has_snip_uncropped_and_mask_under_its_experiment(finished_frames: Path) -> None:
    workspace = open_data_root(finished_frames)
    primary = workspace.output("snips", experiment=FRAMES_EXPERIMENT)
    manifest = parse_document(Snips, primary.read_bytes(), where="snips")
    names = {f"{FRAMES_EXPERIMENT}_{well}_e01_t{t:04d}" for well in ("A01", "A02") for t in range(3)}
    assert set(manifest.snips) == names
    for name in names:
        entry = manifest.snips[name]
        assert entry.path == f"training_data/bf_embryo_snips/{FRAMES_EXPERIMENT}/{name}.jpg"
        assert entry.uncropped_path == f"training_data/bf_embryo_snips_uncropped/{FRAMES_EXPERIMENT}/{name}.jpg"
        assert entry.mask_path == f"training_data/bf_embryo_masks/{FRAMES_EXPERIMENT}/emb_{name}.png"
    for folder in workspace.layout.folders("snips", experiment=FRAMES_EXPERIMENT):
        listed = {
            Path(path).name for path in manifest.files if Path(path).parent == folder.relative_to(finished_frames)
        }
        there = {path.name for path in folder.iterdir() if path.suffix in (".jpg", ".png")}
        assert there == listed
        assert len(there) == 6


def test_snip_has_the_recipe_s_size_and_lies_along_its_rows(bench: StepBench) -> None:
    # an ellipse of 181 x 61 px lying across, at 6.5 um per pixel like the snip's
    supply(bench, {"A01": {0: {1: ellipse(row=160, column=160)}}})
    result = bench.run("snips")
    manifest = read_document(result, Snips)
    (entry,) = manifest.snips.values()
    assert manifest.scale_um_per_px == 6.5
    units = {unit.target: unit.temporary for unit in result.staged.units}
    folders = dict(
        zip(("path", "uncropped_path", "mask_path"), bench.layout.folders("snips", experiment=EXPERIMENT), strict=True)
    )
    pictures = {
        name: read_grey(units[folder] / Path(getattr(entry, name)).name).pixels for name, folder in folders.items()
    }
    assert {name: pixels.shape for name, pixels in pictures.items()} == dict.fromkeys(folders, (576, 256))
    rows, columns = np.nonzero(pictures["mask_path"])
    assert (np.ptp(rows) + 1, np.ptp(columns) + 1) == (pytest.approx(181, abs=4), pytest.approx(61, abs=4))
    # centred on the middle of the occupied rows and columns
    assert ((rows.min() + rows.max()) / 2, (columns.min() + columns.max()) / 2) == pytest.approx((288, 128), abs=2)
    assert not entry.out_of_frame


def test_embryo_larger_than_the_snip_is_marked_out_of_frame(bench: StepBench) -> None:
    supply(bench, {"A01": {0: {1: ellipse(row=160, column=160, along=155, across=60)}}}, um_per_px=13.5)
    (entry,) = read_document(bench.run("snips"), Snips).snips.values()
    assert entry.out_of_frame
    assert entry.kept_share < 0.98


def test_without_a_pixel_size_there_is_no_snip_but_the_reason(bench: StepBench) -> None:
    supply(bench, {"A01": {0: {1: ellipse(row=160, column=160)}}}, um_per_px=None)
    result = bench.run("snips")
    manifest = read_document(result, Snips)
    assert manifest.snips == {}
    (refused,) = manifest.refused.values()
    assert "pixel size" in refused.reason
    assert refused.out_of_frame is None
    assert result.staged.counts["refused"] == 1


def test_embryo_whose_pixels_another_one_hides_is_refused_not_forgotten(bench: StepBench) -> None:
    mask = ellipse(row=160, column=160)
    supply(bench, {"A01": {0: {1: mask, 2: mask}}})
    manifest = read_document(bench.run("snips"), Snips)
    assert list(manifest.snips) == [f"{EXPERIMENT}_A01_e02_t0000"]
    assert list(manifest.refused) == [f"{EXPERIMENT}_A01_e01_t0000"]


def test_inverted_frames_give_the_snips_of_their_positives(tmp_path: Path) -> None:
    mask = ellipse(row=160, column=160)
    picture = photograph(mask)
    manifests = []
    for polarity, pixels in (("as_acquired", picture), ("inverted", 255 - picture)):
        bench = StepBench(tmp_path / polarity, experiment=EXPERIMENT)
        lay_frames(bench, {"A01": {0: pixels}}, um_per_px=6.5, polarity=polarity)
        lay_masks(bench, make_segmentation(EXPERIMENT, {"A01": {0: {1: mask}}}), {"A01": {0: {1: mask}}})
        bench.supply("qc_masks", make_qc_masks(EXPERIMENT))
        result = bench.run("snips")
        manifests.append(read_document(result, Snips))
        folder = result.staged.staged_primary.parent
        grey = read_grey(next(folder.glob("*.jpg"))).pixels.astype(float)
        # the lab's snips are inverted: a bright embryo on a dark field
        assert grey[288 - 40 : 288 + 40, 128 - 10 : 128 + 10].mean() > 2 * grey[:40, :40].mean()
    assert manifests[0].background_mean == manifests[1].background_mean


def test_snips_of_one_well_do_not_depend_on_another_well(bench: StepBench, tmp_path: Path) -> None:
    one, other = ellipse(row=160, column=160), ellipse(row=150, column=170)
    supply(bench, {"A01": {0: {1: one}}, "A02": {0: {1: other}}})
    both = read_document(bench.run("snips"), Snips)
    alone_bench = StepBench(tmp_path / "alone", experiment=EXPERIMENT)
    supply(alone_bench, {"A01": {0: {1: one}}})
    alone = read_document(alone_bench.run("snips"), Snips)
    path = f"training_data/bf_embryo_snips/{EXPERIMENT}/{EXPERIMENT}_A01_e01_t0000.jpg"
    assert alone.files[path] == both.files[path]


def test_experiment_without_an_embryo_has_no_snips(bench: StepBench) -> None:
    lay_frames(bench, {"A01": {0: photograph()}})
    lay_masks(bench, make_segmentation(EXPERIMENT, {"A01": {0: {}}}), {"A01": {0: {}}})
    bench.supply("qc_masks", make_qc_masks(EXPERIMENT))
    manifest = read_document(bench.run("snips"), Snips)
    assert (manifest.snips, manifest.refused, manifest.background_mean) == ({}, {}, None)
