"""The demo plate on disk: layout, bytes, truth, and what a kill leaves."""

from __future__ import annotations

import csv
import hashlib
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
from openpyxl import load_workbook

from morphseq_dagster.demo.plan import DEMO_PLATE, PlatePlan, WellPlan
from morphseq_dagster.demo.plate import make_plate
from morphseq_dagster.demo.truth import PlateTruth, read_truth
from morphseq_dagster.errors import PermanentError
from morphseq_dagster.imaging.keyence import KeyenceSource
from morphseq_dagster.imaging.sources import FocusSettings
from tests.support.frames_plate import FRAMES_PLATE, TINY_PLATE, make_frames_plate
from tests.support.plate_truth import find_frame, find_well, read_mask, read_planes, truth_mask_on_canvas

DYING_PLATE = replace(
    TINY_PLATE,
    wells=(
        WellPlan("A01", kind="dying", start_age_hpf=20.0),
        WellPlan("A02", kind="empty"),
        WellPlan("B01", start_age_hpf=26.0, has_chorion=False),
        WellPlan("B02", start_age_hpf=24.0),
    ),
    times=3,
    death_index=1,
    tiles=3,
)


def hash_tree(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, PlateTruth]:
    root = tmp_path_factory.mktemp("plate")
    truth = make_plate(root / "data", truth_folder=root / "truth", plan=DYING_PLATE)
    return root / "data", root / "truth", truth


def test_files_lie_as_the_microscope_lays_them(made: tuple[Path, Path, PlateTruth]) -> None:
    data, _, truth = made
    raw = data / "raw_image_data/Keyence/20240418_demo"
    # The stage returns on row B, so its folders run against the columns.
    wells = {p.name: [m.name for m in p.iterdir() if m.name.startswith("_")] for p in sorted(raw.iterdir())}
    assert wells == {"XY01": ["_A01"], "XY02": ["_A02"], "XY03": ["_B02"], "XY04": ["_B01"]}
    assert [w.series for w in truth.wells] == ["XY01", "XY02", "XY04", "XY03"]
    assert sorted(p.name for p in (raw / "XY03").iterdir() if p.name[0] == "T") == ["T0001", "T0002", "T0003"]
    names = sorted(p.name for p in (raw / "XY03/T0002").iterdir())
    assert names == [f"embryo__XY03_{tile:05d}_Z{plane:03d}_CH1.tif" for tile in (1, 2, 3) for plane in (1, 2, 3)]


def test_equal_arguments_give_equal_bytes_and_seeds_differ(made: tuple[Path, Path, PlateTruth], tmp_path: Path) -> None:
    data, truth_folder, _ = made
    make_plate(tmp_path / "data", truth_folder=tmp_path / "truth", plan=DYING_PLATE)
    assert hash_tree(tmp_path / "data") == hash_tree(data)
    assert hash_tree(tmp_path / "truth") == hash_tree(truth_folder)
    make_plate(tmp_path / "other", truth_folder=tmp_path / "other_truth", plan=DYING_PLATE, seed=1)
    ours, others = hash_tree(data), hash_tree(tmp_path / "other")
    pictures = [name for name in ours if name.endswith(".tif")]
    assert all(ours[name] != others[name] for name in pictures)


def test_bytes_of_a_well_do_not_depend_on_its_neighbours(made: tuple[Path, Path, PlateTruth], tmp_path: Path) -> None:
    data, _, _ = made
    make_plate(
        tmp_path / "data", truth_folder=tmp_path / "truth", plan=replace(DYING_PLATE, wells=DYING_PLATE.wells[:2])
    )
    part = "raw_image_data/Keyence/20240418_demo/XY02/T0003"
    assert hash_tree(tmp_path / "data" / part) == hash_tree(data / part)


def test_truth_on_disk_is_the_truth_returned(made: tuple[Path, Path, PlateTruth]) -> None:
    _, folder, truth = made
    assert read_truth(folder) == truth
    for well in truth.wells:
        for frame in well.frames:
            mask = read_mask(folder, well=well.well, time_int=frame.time_int)
            planes = read_planes(folder, well=well.well, time_int=frame.time_int)
            assert mask.shape == planes.shape == frame.mosaic_shape_px
            assert int(mask.sum()) == frame.body_area_px
            assert np.array_equal(mask > 0, planes < 255)
            assert planes[mask > 0].max(initial=0) < truth.planes


def test_empty_well_holds_nothing_and_names_nobody(made: tuple[Path, Path, PlateTruth]) -> None:
    _, _, truth = made
    empty = find_well(truth, "A02")
    assert (empty.kind, empty.embryo_id, empty.death_time_int) == ("empty", None, None)
    assert all(f.body_area_px == 0 and f.body_box_px is None and f.age_hpf is None for f in empty.frames)


def test_death_is_recorded_where_the_animal_turns_opaque(made: tuple[Path, Path, PlateTruth]) -> None:
    _, _, truth = made
    dying = find_well(truth, "A01")
    assert (dying.death_time_int, dying.death_time_s) == (2, 1800.0)
    assert [f.opacity for f in dying.frames] == [0.0, 0.65, 1.0]
    assert dying.frames[2].age_hpf == dying.frames[0].age_hpf == 20.0
    living = find_well(truth, "B01")
    # 28.5 C: 0.055 * 28.5 - 0.57 = 0.9975 hpf per hour.
    assert living.frames[2].age_hpf == pytest.approx(26.0 + 0.9975)
    assert living.death_time_int is None
    assert living.embryo_id == "20240418_demo_B01_e01"


def test_default_plate_keeps_two_frames_after_death_and_all_kinds_of_wells() -> None:
    kinds = [well.kind for well in DEMO_PLATE.wells]
    assert (kinds.count("embryo"), kinds.count("dying"), kinds.count("empty")) == (6, 1, 1)
    assert 1 <= DEMO_PLATE.death_index <= DEMO_PLATE.times - 3
    assert {w.has_chorion for w in DEMO_PLATE.wells if w.kind == "embryo"} == {True, False}
    pixels = DEMO_PLATE.tiles * DEMO_PLATE.planes * np.prod(DEMO_PLATE.tile_shape_px)
    assert len(DEMO_PLATE.wells) * DEMO_PLATE.times * pixels < 150e6


def test_workbook_names_every_well(made: tuple[Path, Path, PlateTruth]) -> None:
    data, _, _ = made
    book = load_workbook(data / "metadata/well_metadata/20240418_demo_well_metadata.xlsx")
    assert book.sheetnames == [
        "medium",
        "genotype",
        "chem_perturbation",
        "start_age_hpf",
        "embryos_per_well",
        "temperature",
        "pair",
    ]
    assert [book["embryos_per_well"][cell].value for cell in ("B2", "C2", "B3", "C3", "D3")] == [1, 0, 1, 1, None]
    assert book["start_age_hpf"]["B2"].value == 20.0
    assert book["chem_perturbation"]["B2"].value is None


def test_tile_offsets_are_those_of_the_pixels(tmp_path: Path) -> None:
    plan = replace(TINY_PLATE, wells=TINY_PLATE.wells[:1], tiles=3, times=1)
    truth = make_plate(tmp_path / "d", truth_folder=tmp_path / "t", difficulty="easy", plan=plan)
    frame = truth.wells[0].frames[0]
    folder = tmp_path / "d/raw_image_data/Keyence/20240418_demo/XY01/T0001"
    tiles = [tifffile.imread(folder / f"embryo__XY01_{n:05d}_Z001_CH1.tif").astype(float) for n in (1, 2, 3)]
    rows, columns = plan.tile_shape_px
    for first, second, start, stop in zip(
        tiles, tiles[1:], frame.tile_offsets_px, frame.tile_offsets_px[1:], strict=False
    ):
        down, right = stop[0] - start[0], stop[1] - start[1]
        scores = {}
        for shift_row in range(-4, 5):
            for shift_column in range(324, 349):
                one = first[max(shift_row, 0) : rows + min(shift_row, 0), shift_column:]
                two = second[max(-shift_row, 0) : rows + min(-shift_row, 0), : columns - shift_column]
                scores[shift_row, shift_column] = np.corrcoef(one.ravel(), two.ravel())[0, 1]
        assert max(scores, key=lambda shift: scores[shift]) == (down, right)


@pytest.mark.parametrize(
    ("experiment", "canvas", "along"), [("20240418_demo", (855, 360), 1), ("20230418_demo", (855, 472), 0)]
)
@pytest.mark.parametrize("difficulty", ["easy", "hard"])
def test_embryos_lie_on_the_canvas_of_the_stitched_picture(
    tmp_path: Path, experiment: str, canvas: tuple[int, int], along: int, difficulty: str
) -> None:
    wells = tuple(
        replace(DEMO_PLATE.wells[k % 5], well=f"C{k + 1:02d}", start_age_hpf=(18.0, 22.0, 26.0, 24.0, 30.0)[k % 5])
        for k in range(5)
    )
    plan = replace(TINY_PLATE, wells=wells, tiles=3, planes=1, times=1)
    truth = make_plate(
        tmp_path / "d",
        truth_folder=tmp_path / "t",
        plan=plan,
        experiment=experiment,
        difficulty=difficulty,  # type: ignore[arg-type]
    )
    assert truth.orientation == ("horizontal" if along else "vertical")
    for well in truth.wells:
        frame = well.frames[0]
        assert frame.mosaic_shape_px[along] > 2 * plan.tile_shape_px[along]
        mask = read_mask(tmp_path / "t", well=well.well, time_int=frame.time_int)
        on_canvas = truth_mask_on_canvas(mask, orientation=truth.orientation, canvas_shape=canvas)
        assert int(on_canvas.sum()) == frame.body_area_px > 5000


def test_plate_reads_through_the_keyence_reader(made: tuple[Path, Path, PlateTruth]) -> None:
    data, folder, truth = made
    settings = FocusSettings()
    source = KeyenceSource(data / "raw_image_data/Keyence/20240418_demo", settings=settings)
    scan = source.scan()
    assert scan.problems == ()
    assert [(f.well, f.time_int) for f in scan.frames] == [
        (well.well, frame.time_int) for well in truth.wells for frame in well.frames
    ]
    start = None
    for raw in scan.frames:
        if raw.time_int == 3:
            continue
        frame = find_frame(truth, raw.well, time_int=raw.time_int)
        seen = source.full_focus(raw, settings=settings)
        start = seen.time_s if start is None else start
        assert seen.time_s is not None
        assert seen.time_s - start == pytest.approx(frame.time_s, abs=1e-3)
        assert seen.um_per_px == pytest.approx(truth.um_per_px, rel=1e-6)
        assert [(t.row_px, t.column_px) for t in seen.tile_offsets] == list(frame.tile_offsets_px)
        planes = truth_mask_on_canvas(
            read_planes(folder, well=raw.well, time_int=raw.time_int),
            orientation=truth.orientation,
            canvas_shape=seen.pixels.shape,
            fill=255,
        )
        inside = planes < 255
        assert int(inside.sum()) == frame.body_area_px
        if frame.opacity == 0:
            assert (seen.plane_index == planes)[inside].mean() > 0.95


def test_progress_counts_every_frame(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    plan = replace(TINY_PLATE, tiles=1, planes=1, tile_shape_px=(420, 520))
    make_plate(
        tmp_path / "d",
        truth_folder=tmp_path / "t",
        plan=plan,
        on_progress=lambda done, total: told.append((done, total)),
    )
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]


@pytest.mark.parametrize("bit_depth", [8, 16])
def test_pictures_have_the_bit_depth_of_the_plan(tmp_path: Path, bit_depth: int) -> None:
    plan = replace(TINY_PLATE, wells=TINY_PLATE.wells[:1], times=1, planes=1, bit_depth=bit_depth)  # type: ignore[arg-type]
    make_plate(tmp_path / "d", truth_folder=tmp_path / "t", plan=plan)
    (path, _) = sorted((tmp_path / "d").rglob("*.tif"))
    picture = tifffile.imread(path)
    assert picture.dtype == f"uint{bit_depth}"
    assert 0.5 < np.median(picture) / np.iinfo(picture.dtype).max < 0.9


@pytest.mark.parametrize("name", ["../evil", "20240418_A01", "plate"])
def test_name_that_is_no_experiment_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(PermanentError):
        make_plate(tmp_path / "d", truth_folder=tmp_path / "t", plan=TINY_PLATE, experiment=name)
    assert list(tmp_path.iterdir()) == []


def test_nothing_that_is_there_is_overwritten(tmp_path: Path) -> None:
    book = tmp_path / "d/metadata/well_metadata/20240419_frames_well_metadata.xlsx"
    book.parent.mkdir(parents=True)
    book.write_bytes(b"a lab's own")
    (tmp_path / "t").mkdir()
    (tmp_path / "t/notes.txt").write_text("keep")
    with pytest.raises(PermanentError) as caught:
        make_frames_plate(tmp_path / "d", truth_folder=tmp_path / "t")
    assert str(book) in caught.value.found
    assert str(tmp_path / "t") in caught.value.found
    assert book.read_bytes() == b"a lab's own"
    assert [p.name for p in (tmp_path / "t").iterdir()] == ["notes.txt"]


def test_second_plate_of_the_same_name_is_refused(tmp_path: Path) -> None:
    make_frames_plate(tmp_path / "d", truth_folder=tmp_path / "t")
    before = hash_tree(tmp_path)
    with pytest.raises(PermanentError, match="raw folder"):
        make_frames_plate(tmp_path / "d", truth_folder=tmp_path / "t")
    assert hash_tree(tmp_path) == before


def test_embryo_larger_than_the_field_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    plan = replace(FRAMES_PLATE, tile_shape_px=(100, 100))
    with pytest.raises(ValueError, match="A01"):
        make_frames_plate(tmp_path / "d", truth_folder=tmp_path / "t", plan=plan)
    assert [p for p in tmp_path.rglob("*") if p.is_file() or p.name.endswith(".tmp")] == []


@pytest.mark.parametrize(
    "wells",
    [(), (WellPlan("A01"), WellPlan("A01")), (WellPlan("a1"),), (WellPlan("A01", kind="dying"),)],
)
def test_plan_that_cannot_be_made_is_refused(wells: tuple[WellPlan, ...]) -> None:
    with pytest.raises(ValueError, match=r"wells|death_index|well"):
        PlatePlan(wells=wells, times=3, death_index=3)


def test_killed_maker_leaves_no_half_plate_and_the_next_one_clears_up(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from morphseq_dagster.demo.plate import make_plate\n"
        "root = Path(sys.argv[1])\n"
        "make_plate(root / 'd', truth_folder=root / 't', on_progress=lambda done, total: print(done, flush=True))\n"
    )
    with subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE) as maker:
        assert maker.stdout is not None
        assert maker.stdout.readline() == b"1\n"
        os.kill(maker.pid, signal.SIGKILL)
    raw = tmp_path / "d/raw_image_data/Keyence"
    assert [p.name[0] for p in raw.iterdir()] == ["."]
    assert not (tmp_path / "t").exists()
    make_plate(tmp_path / "d", truth_folder=tmp_path / "t", plan=replace(TINY_PLATE, planes=1, times=1))
    assert [p.name for p in raw.iterdir()] == ["20240418_demo"]
    assert list(tmp_path.rglob("*.tmp")) == []


def test_truth_without_raw_is_taken_over(tmp_path: Path) -> None:
    first = make_frames_plate(tmp_path / "d", truth_folder=tmp_path / "t")
    raw = tmp_path / "d/raw_image_data/Frames/20240419_frames"
    raw.rename(tmp_path / "gone")
    assert make_frames_plate(tmp_path / "d", truth_folder=tmp_path / "t") == first
    assert hash_tree(raw) == hash_tree(tmp_path / "gone")


def test_frames_table_names_every_picture(tmp_path: Path) -> None:
    truth = make_frames_plate(tmp_path / "d", truth_folder=tmp_path / "t")
    raw = tmp_path / "d/raw_image_data/Frames/20240419_frames"
    with (raw / "frames.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["well", "time_int", "time_s", "path", "um_per_px"]
    assert len(rows) == 9
    assert {row["um_per_px"] for row in rows} == {"6.5"}
    assert sorted([row["path"] for row in rows] + ["frames.csv"]) == sorted(p.name for p in raw.iterdir())
    for row in rows:
        frame = find_frame(truth, row["well"], time_int=int(row["time_int"]))
        assert float(row["time_s"]) == frame.time_s
        assert frame.mosaic_shape_px == truth.tile_shape_px == (320, 320)
    assert truth.orientation == "none"
