"""Stage, focal planes, camera and files of the synthetic microscope."""

from __future__ import annotations

import re
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile

from morphseq_dagster.demo.embryo import Pose, design_embryo
from morphseq_dagster.demo.levels import LEVELS
from morphseq_dagster.demo.microscope import (
    blur_background,
    expose,
    make_stage,
    shade_tile,
    take_plane,
    write_keyence_tiff,
)
from morphseq_dagster.demo.optics import render_embryo
from morphseq_dagster.demo.scene import draw_background
from tests.support.frames_plate import sharp_scene

LEVEL = LEVELS["middle"]


def read_block(data: bytes) -> dict[str, list[tuple[str, str]]]:
    """Tags of the text block as spec 3.2 words it: name -> (type, value) in order."""
    text = data.split(b"<Data>")[1].split(b"</Data>")[0].decode()
    found: dict[str, list[tuple[str, str]]] = {}
    for name, kind, value in re.findall(r'<(\w+) Type="System\.(\w+)">([^<]*)</\1>', text):
        found.setdefault(name, []).append((kind, value))
    return found


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_tiff_holds_pixels_and_metadata_block(tmp_path: Path, dtype: type) -> None:
    pixels = np.arange(360 * 480, dtype=np.uint32).reshape(360, 480).astype(dtype)
    path = tmp_path / "embryo__XY01_00001_Z001_CH1.tif"
    write_keyence_tiff(path, pixels=pixels, um_per_px=5.661627, time_s=12.3)
    with tifffile.TiffFile(path) as file:
        assert len(file.pages) == 1
        assert file.pages[0].compression == 1
        assert "DateTime" not in file.pages[0].tags
        assert np.array_equal(file.asarray(), pixels)
    assert np.array_equal(cv2.imread(str(path), cv2.IMREAD_UNCHANGED), pixels)
    block = read_block(path.read_bytes())
    kind, ticks = block["ShootingDateTime"][0]
    assert kind == "Int64"
    assert int(ticks) / 1e7 == pytest.approx(-8.58e11 + 12.3, abs=1e-3)
    assert block["LensName"][0][0] == "String"
    assert block["Observation"] == [("String", "Brightfield")]
    assert [value for _, value in block["Width"]] == ["1920", "480", "2717581"]
    assert [value for _, value in block["Height"]] == ["1440", "360", "2038186"]


def test_times_of_two_files_differ_by_what_passed(tmp_path: Path) -> None:
    ticks = []
    for name, time_s in (("a", 0.0), ("b", 1800.3)):
        write_keyence_tiff(tmp_path / name, pixels=np.zeros((4, 4), np.uint8), um_per_px=1.0, time_s=time_s)
        ticks.append(int(read_block((tmp_path / name).read_bytes())["ShootingDateTime"][0][1]))
    assert ticks[1] - ticks[0] == 18_003_000_000


@pytest.mark.parametrize(("along", "scene"), [(1, (360 + 48, 480 + 672 + 48)), (0, (360 + 504 + 48, 480 + 48))])
def test_tiles_overlap_by_the_share_and_stay_in_the_scene(along: int, scene: tuple[int, int]) -> None:
    stage = make_stage(tile_shape=(360, 480), tiles=3, along=along, overlap=0.3)  # type: ignore[arg-type]
    assert stage.scene_shape == scene
    pitch = 336 if along else 252
    seen = set()
    for frame in range(60):
        places = np.array(stage.place_tiles(5, name=f"A01/{frame}", level=LEVEL))
        assert places.min() >= 0
        assert (places.max(axis=0) + stage.tile_shape <= scene).all()
        steps = np.diff(places, axis=0)
        # Two stage errors of at most 4 px and a drift of 1 px along; 2 px across.
        assert np.abs(steps[:, along] - pitch).max() <= 2 * LEVEL.jitter_along_px + 1
        assert np.abs(steps[:, 1 - along]).max() <= LEVEL.jitter_across_px
        seen.add(tuple(steps[:, along]))
    assert len(seen) > 20


def test_camera_rounds_saturates_and_scales() -> None:
    light = np.array([[-5.0, 100.4, 300.0]], np.float32)
    random = np.random.default_rng(0)
    assert expose(light, shading=None, noise_sd=0, random=random, bit_depth=8).tolist() == [[0, 100, 255]]
    deep = expose(light, shading=None, noise_sd=0, random=random, bit_depth=16)
    assert deep.dtype == np.uint16
    assert deep.tolist() == [[0, 25803, 65535]]
    shaded = expose(light, shading=np.full((1, 3), 0.5, np.float32), noise_sd=0, random=random, bit_depth=8)
    assert shaded.tolist() == [[0, 50, 150]]


def test_noise_has_the_stated_deviation_and_leaves_the_light_alone() -> None:
    light = np.full((300, 300), 120.0, np.float32)
    light.setflags(write=False)
    pixels = expose(light, shading=None, noise_sd=3.0, random=np.random.default_rng(1), bit_depth=8)
    assert pixels.std() == pytest.approx(np.sqrt(9 + 1 / 12), rel=0.02)
    assert pixels.mean() == pytest.approx(120, abs=0.05)


def test_gain_of_tiles_stays_within_the_level() -> None:
    means = [shade_tile(3, name=f"A01/{n}", tile_shape=(36, 48), level=LEVEL).mean() for n in range(40)]
    # The vignette takes a mean of 0.8 * 2/3 of the half-range from every tile.
    assert np.abs(np.array(means) - 1).max() <= 1.6 * LEVEL.tile_gain
    assert np.std(means) > 0.3 * LEVEL.tile_gain


def test_every_part_is_sharpest_in_its_own_plane() -> None:
    design = design_embryo(4, name="A01", has_chorion=False, planes=5)
    picture = render_embryo(
        design,
        pose=Pose(200, 240, 0.0, 26.0, 0.0),
        chorion=None,
        look=LEVEL.look,
        um_per_px=5.66,
        scene_shape=(400, 600),
    )
    flat = np.full((400, 600), 200.0, np.float32)
    inner = cv2.erode(picture.mask.astype(np.uint8), np.ones((7, 7))) > 0
    planes = [take_plane(flat, picture=picture, plane=float(k), level=LEVEL) for k in range(5)]
    rows = slice(picture.row_px, picture.row_px + inner.shape[0])
    columns = slice(picture.column_px, picture.column_px + inner.shape[1])
    for height in (design.head_plane, design.trunk_plane, design.tail_plane):
        part = inner & (picture.height == np.float32(height))
        energy = [float(np.square(cv2.Laplacian(p, cv2.CV_32F))[rows, columns][part].mean()) for p in planes]
        assert int(np.argmax(energy)) == round(height)
    assert (flat == 200).all()


def test_sharp_scene_is_background_times_transmission() -> None:
    light = draw_background(
        1, name="A01", shape=(300, 300), um_per_px=6.0, level=LEVEL, keep_clear=(150, 150, 90), edge=False
    )
    assert np.array_equal(sharp_scene(light, picture=None), light)
    design = design_embryo(4, name="A01", has_chorion=False, planes=1)
    pose = Pose(150, 130, 0.0, 20.0, 0.0)
    picture = render_embryo(design, pose=pose, chorion=None, look=LEVEL.look, um_per_px=6.0, scene_shape=(300, 300))
    scene = sharp_scene(light, picture=picture)
    row, column = (int(v[len(v) // 2]) for v in np.nonzero(picture.mask))
    expected = light[row + picture.row_px, column + picture.column_px] * np.exp(-picture.absorbance[row, column])
    assert scene[row + picture.row_px, column + picture.column_px] == pytest.approx(expected, rel=1e-5)


def test_background_is_sharp_in_its_own_plane_only() -> None:
    light = draw_background(1, name="A01", shape=(200, 200), um_per_px=6.0, level=LEVEL, keep_clear=None, edge=False)
    planes = blur_background(light, planes=3, sharpest=1.0, level=LEVEL)
    assert np.array_equal(planes[1], light)
    detail = [float(np.square(cv2.Laplacian(p, cv2.CV_32F)).mean()) for p in planes]
    assert detail[1] > 5 * max(detail[0], detail[2])


def test_wall_of_the_well_stays_off_the_embryo() -> None:
    for seed in range(8):
        clear = (200.0, 200.0 + 100 * (seed % 5), 110.0)
        with_wall, without = (
            draw_background(
                seed, name="A01", shape=(400, 1200), um_per_px=5.66, level=LEVEL, keep_clear=clear, edge=edge
            )
            for edge in (True, False)
        )
        rows, columns = np.mgrid[:400, :1200]
        near = np.hypot(rows - clear[0], columns - clear[1]) < clear[2]
        share = with_wall / without
        assert share[near].min() > 0.85
        assert share.min() < 0.35
