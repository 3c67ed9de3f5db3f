"""Keyence experiments: layout, isolation of faults, and the picture against its truth."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import tifffile
from scipy import ndimage

from morphseq_dagster.errors import PermanentError, TransientError
from morphseq_dagster.imaging import keyence
from morphseq_dagster.imaging.keyence import KeyenceSource
from morphseq_dagster.imaging.microscopes import open_source
from morphseq_dagster.imaging.sources import NO_PLANE, FocusSettings, RawFrame
from morphseq_dagster.imaging.stitching import TileStep

UM_PER_PX = 3.0
SHAPE = (120, 160)


def keyence_tiff(pixels: np.ndarray, *, time_s: float = 0.0, nm_per_px: int = 3000) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, pixels, photometric="minisblack")
    height, width = pixels.shape
    sizes = "".join(
        f'<Width Type="System.Int32">{w}</Width><Height Type="System.Int32">{h}</Height>'
        for w, h in ((1, 1), (width, height), (width * nm_per_px, height * nm_per_px))
    )
    text = (
        f'<Data><ShootingDateTime Type="System.Int64">{round(time_s * 1e7)}</ShootingDateTime>'
        f'<LensName Type="System.String">4x</LensName><Observation Type="System.String">BF</Observation>{sizes}</Data>'
    )
    return buffer.getvalue() + text.encode()


def write(path: Path, data: bytes = b"") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def stub_wells(folder: Path, names: dict[str, str], *, tiles: int = 2, planes: int = 2) -> None:
    """Empty files under real names: a scan opens none."""
    for xy, well in names.items():
        write(folder / xy / f"_{well}")
        for tile in range(1, tiles + 1):
            for plane in range(1, planes + 1):
                write(folder / xy / f"embryo__{xy}_{tile:05d}_Z{plane:03d}_CH1.tif")


def test_plate_layout_gives_tiles_and_planes_in_order(tmp_path: Path) -> None:
    stub_wells(tmp_path, {"XY01": "B01", "XY02": "A12"}, tiles=3, planes=12)
    found = KeyenceSource(tmp_path, settings=FocusSettings()).scan()
    assert found.problems == ()
    assert found.wells == ("A12", "B01")
    frame = found.frames[1]
    assert (len(frame.tiles), len(frame.tiles[0])) == (3, 12)
    assert frame.tiles[1][9] == "XY01/embryo__XY01_00002_Z010_CH1.tif"


def test_position_and_time_folders(tmp_path: Path) -> None:
    for time in (3, 10):
        for tile in (1, 2):
            name = f"embryo__XY01_{tile:05d}_Z001_CH1.tif"
            write(tmp_path / "XY01" / "P00001" / f"T{time:04d}" / name)
    write(tmp_path / "XY01" / "_C07")
    found = KeyenceSource(tmp_path, settings=FocusSettings()).scan()
    assert [(f.well, f.time_int, len(f.tiles)) for f in found.frames] == [("C07", 3, 2), ("C07", 10, 2)]


def test_cytometer_layout_takes_tiles_from_position_folders(tmp_path: Path) -> None:
    for position in (1, 2):
        for plane in (1, 2, 3):
            write(tmp_path / "W001" / f"P{position:05d}" / f"scan_Z{plane:03d}_CH4.tif")
    (tmp_path / "W001" / "_D05").mkdir()
    found = KeyenceSource(tmp_path, settings=FocusSettings()).scan()
    assert [len(tile) for tile in found.frames[0].tiles] == [3, 3]
    assert found.frames[0].tiles[1][0] == "W001/P00002/scan_Z001_CH4.tif"


def test_well_folders_one_level_deeper_are_found(tmp_path: Path) -> None:
    stub_wells(tmp_path / "acquisition", {"XY01": "A01"})
    assert KeyenceSource(tmp_path, settings=FocusSettings()).scan().wells == ("A01",)


def test_all_structural_problems_are_collected_and_good_wells_stay(tmp_path: Path) -> None:
    stub_wells(
        tmp_path,
        {"XY01": "A01", "XY02": "A02", "XY03": "A02", "XY04": "A04", "XY05": "A05", "XY06": "A06", "XY07": "A07"},
    )
    (tmp_path / "XY04" / "_A04").rename(tmp_path / "XY04" / "_readme")
    (tmp_path / "XY05" / "embryo__XY05_00002_Z002_CH1.tif").unlink()
    write(tmp_path / "XY06" / "embryo__XY06_00001_Z001_CH2.tif")
    write(tmp_path / "XY07" / "other__XY07_00001_Z001_CH1.tif")
    write(tmp_path / "XY01" / "odd_name_CH1.tif")
    (tmp_path / "XY08").mkdir()
    write(tmp_path / "XY09.lnk")
    found = KeyenceSource(tmp_path, settings=FocusSettings()).scan()
    assert found.wells == ("A01",)
    told = {p.well: p.found for p in found.problems if p.well}
    assert "2 folders named A02" in told["A02"]
    assert told["A05"] == "missing tile 2 plane 2"
    assert told["A06"] == "channels CH1, CH2"
    assert "other__XY07" in told["A07"]
    assert "odd_name" in told["A01"]
    unknown = [p.where.rsplit("/", 1)[1] for p in found.problems_of(None)]
    assert unknown[1:] == ["XY04", "XY08"]
    assert "shortcuts" in found.problems_of(None)[0].found


def test_named_channel_is_taken(tmp_path: Path) -> None:
    stub_wells(tmp_path, {"XY01": "A01"})
    write(tmp_path / "XY01" / "embryo__XY01_00001_Z001_CH2.tif")
    found = KeyenceSource(tmp_path, settings=FocusSettings(channel="CH1")).scan()
    assert len(found.frames[0].files) == 4


def test_frame_with_a_missing_tile_is_left_out_unless_the_recipe_says_so(tmp_path: Path) -> None:
    stub_wells(tmp_path, {"XY01": "A01", "XY02": "A02"}, tiles=3)
    stub_wells(tmp_path, {"XY03": "A03"}, tiles=2)
    found = KeyenceSource(tmp_path, settings=FocusSettings()).scan()
    assert found.wells == ("A01", "A02")
    assert found.problems[0].found == "2 tiles of 2 planes"
    assert KeyenceSource(tmp_path, settings=FocusSettings(tiles_per_well=2)).scan().wells == ("A03",)


def test_empty_or_missing_folder_is_an_error_of_the_experiment(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(PermanentError):
            KeyenceSource(folder, settings=FocusSettings()).scan()
    (tmp_path / "XY01").mkdir()
    with pytest.raises(PermanentError, match="no entry beginning with _"):
        KeyenceSource(tmp_path, settings=FocusSettings()).scan()


def make_well(
    folder: Path, *, dtype: type = np.uint8, places: tuple[tuple[int, int], ...] = ((8, 8), (11, 121), (6, 230))
) -> tuple[np.ndarray, np.ndarray]:
    """One well: a textured scene, left half sharp in plane 1, right half in plane 3; returns scene and true planes."""
    rng = np.random.default_rng(2)
    texture = ndimage.gaussian_filter(rng.standard_normal((140, 400)), 1.5)
    scene = 120 + 25 * texture / texture.std()
    depth = np.where(np.arange(400)[None, :] < 200, 1, 3) + np.zeros((140, 1), int)
    blurred = [scene] + [ndimage.gaussian_filter(scene, s) for s in (1.5, 3.0, 4.5, 6.0)]
    write(folder / "XY01" / "_A01")
    for tile, (row, column) in enumerate(places, start=1):
        window = np.s_[row : row + SHAPE[0], column : column + SHAPE[1]]
        for plane in range(5):
            pixels = np.choose(np.abs(plane - depth), blurred)[window] + rng.normal(0, 1, SHAPE)
            scale = 100 if dtype is np.uint16 else 1
            pixels = np.clip(np.rint(pixels * scale), 0, np.iinfo(dtype).max).astype(dtype)
            name = f"embryo__XY01_{tile:05d}_Z{plane + 1:03d}_CH1.tif"
            write(folder / "XY01" / name, keyence_tiff(pixels, time_s=42.5))
    return scene, depth


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_stack_stitch_canvas_and_inversion_against_truth(tmp_path: Path, dtype: type) -> None:
    folder = tmp_path / "20250520_demo"
    scene, depth = make_well(folder, dtype=dtype)
    source = open_source(folder, microscope="Keyence")
    frame = source.scan().frames[0]
    settings = FocusSettings(canvas="mosaic")
    focused = source.full_focus(frame, settings=settings)
    assert [(o.row_px, o.column_px, o.source) for o in focused.tile_offsets] == [
        (0, 0, "reference"),
        (3, 113, "measured"),
        (-2, 222, "measured"),
    ]
    # Tiles lie beside each other (2025), so the mosaic is transposed: 160 + 2 x 112 long, 120 wide.
    assert focused.pixels.shape == (384, 120)
    assert (focused.um_per_px, focused.time_s, focused.objective, focused.channel_name) == (3.0, 42.5, "4x", "BF")
    assert (focused.width_px, focused.height_px) == (160, 120)
    assert [path for path, _ in focused.sources] == list(frame.files)
    assert source.polarity == "inverted"
    # The mosaic is 125 x 382 px and starts at row 6, column 8 of the scene; the canvas adds a column on either side.
    window = np.s_[6 + 2 : 6 + 2 + 120, 8 : 8 + 382]
    index = focused.plane_index
    assert index is not None
    covered = (index.T != NO_PLANE)[:, 1:-1]
    assert (index[0] == NO_PLANE).all()
    assert (focused.pixels[0] == 255).all()
    assert (index.T[:, 1:-1] == depth[window])[covered].mean() >= 0.95
    shown = focused.pixels.T[:, 1:-1].astype(float)
    assert np.corrcoef(shown[covered], scene[window][covered])[0, 1] < -0.97
    assert focused.encoded is None


def test_equal_files_give_equal_bytes_with_and_without_the_second_reading(tmp_path: Path) -> None:
    folder = tmp_path / "20250520_demo"
    make_well(folder)
    source = KeyenceSource(folder, settings=FocusSettings())
    frame = source.scan().frames[0]
    first, second = (source.full_focus(frame, settings=FocusSettings()) for _ in range(2))
    np.testing.assert_array_equal(first.pixels, second.pixels)
    once = source.full_focus(frame, settings=FocusSettings(index_median_px=1))
    assert once.pixels.shape == first.pixels.shape
    assert once.sources == first.sources


def test_step_of_the_plate_stands_in_where_tiles_say_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "20250520_demo"
    rng = np.random.default_rng(0)
    write(folder / "XY01" / "_A01")
    for tile in (1, 2):
        pixels = rng.normal(150, 3, SHAPE).astype(np.uint8)
        write(folder / "XY01" / f"embryo__XY01_{tile:05d}_Z001_CH1.tif", keyence_tiff(pixels))
    source = KeyenceSource(folder, settings=FocusSettings())
    frame = source.scan().frames[0]
    offsets = source.full_focus(frame, settings=FocusSettings(), plate_steps=(TileStep(2, 110),)).tile_offsets
    assert (offsets[1].row_px, offsets[1].column_px, offsets[1].source) == (2, 110, "plate")


@pytest.mark.parametrize("fault", ["truncated", "size", "depth", "header", "gone"])
def test_fault_in_one_file_names_it(tmp_path: Path, fault: str) -> None:
    folder = tmp_path / "20250520_demo"
    make_well(folder)
    source = KeyenceSource(folder, settings=FocusSettings())
    frame = source.scan().frames[0]
    path = folder / (frame.files[0] if fault == "header" else frame.files[7])
    data = path.read_bytes()
    if fault == "truncated":
        path.write_bytes(data[: SHAPE[0] * SHAPE[1] // 2])
    elif fault == "size":
        path.write_bytes(keyence_tiff(np.zeros((120, 150), np.uint8)))
    elif fault == "depth":
        path.write_bytes(keyence_tiff(np.zeros(SHAPE, np.uint16)))
    elif fault == "header":
        path.write_bytes(data[: data.index(b"<Data>")])
    else:
        path.unlink()
    with pytest.raises(PermanentError) as caught:
        source.full_focus(frame, settings=FocusSettings())
    assert path.name in caught.value.where
    assert caught.value.remedy


def test_experiment_of_one_nd2_file_says_the_way_round(tmp_path: Path) -> None:
    source = open_source(tmp_path, microscope="YX1")
    with pytest.raises(PermanentError, match=r"no \.nd2 file"):
        source.scan()
    (tmp_path / "a.nd2").touch()
    with pytest.raises(PermanentError, match=r"frames\.csv"):
        source.scan()
    (tmp_path / "b.ND2").touch()
    with pytest.raises(PermanentError, match=r"a\.nd2, b\.ND2"):
        source.scan()


def write_tiles(folder: Path, places: tuple[tuple[int, int], ...]) -> np.ndarray:
    """A well of one plane, cut from a textured scene at (row, column) places; returns the scene."""
    texture = ndimage.gaussian_filter(np.random.default_rng(3).standard_normal((330, 330)), 1.5)
    scene = np.clip(120 + 25 * texture / texture.std(), 0, 255).astype(np.uint8)
    write(folder / "XY01" / "_A01")
    for tile, (row, column) in enumerate(places, start=1):
        pixels = scene[row : row + SHAPE[0], column : column + SHAPE[1]]
        write(folder / "XY01" / f"embryo__XY01_{tile:05d}_Z001_CH1.tif", keyence_tiff(pixels))
    return scene


def test_tiles_below_each_other_stay_upright(tmp_path: Path) -> None:
    folder = tmp_path / "20230520_demo"
    scene = write_tiles(folder, ((10, 10), (93, 12)))
    source = KeyenceSource(folder, settings=FocusSettings())
    focused = source.full_focus(source.scan().frames[0], settings=FocusSettings(canvas="mosaic"))
    assert [(o.row_px, o.column_px) for o in focused.tile_offsets] == [(0, 0), (83, 2)]
    # Nominal: 84 of 120 rows to the next tile. The mosaic of 203 x 162 px lies in it about the centre.
    assert focused.pixels.shape == (204, 160)
    shown, expected = focused.pixels[:203].astype(float), scene[10 : 10 + 203, 11 : 11 + 160]
    covered = focused.plane_index[:203] != NO_PLANE
    assert covered.mean() > 0.98
    assert np.corrcoef(shown[covered], expected[covered])[0, 1] < -0.99


def test_single_tile_is_neither_turned_nor_matched(tmp_path: Path) -> None:
    folder = tmp_path / "20250520_demo"
    scene = write_tiles(folder, ((10, 10),))
    source = KeyenceSource(folder, settings=FocusSettings())
    focused = source.full_focus(source.scan().frames[0], settings=FocusSettings())
    assert [(o.row_px, o.column_px, o.source) for o in focused.tile_offsets] == [(0, 0, "reference")]
    assert focused.pixels.shape == SHAPE
    assert np.corrcoef(focused.pixels.ravel(), scene[10:130, 10:170].ravel())[0, 1] < -0.99


def test_nd2_pixels_are_refused_with_the_way_round(tmp_path: Path) -> None:
    (tmp_path / "a.nd2").touch()
    source = open_source(tmp_path, microscope="YX1")
    assert source.polarity == "inverted"
    with pytest.raises(PermanentError, match=r"frames\.csv"):
        source.full_focus(RawFrame("A01", 0, 0, (("a.nd2",),), None, None), settings=FocusSettings())


def test_file_that_changes_between_the_two_readings_is_a_passing_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "20250520_demo"
    make_well(folder)
    source = KeyenceSource(folder, settings=FocusSettings())
    frame = source.scan().frames[0]
    read, seen = keyence.read_file_bytes, []

    def read_and_change(path: Path) -> bytes:
        seen.append(path.name)
        data = read(path)
        return data + b"more" if seen.count(path.name) == 2 else data

    monkeypatch.setattr(keyence, "read_file_bytes", read_and_change)
    with pytest.raises(TransientError, match="other bytes at the second reading"):
        source.full_focus(frame, settings=FocusSettings())
