"""Full-focus frames: named as the spec says, geometry and time of each, failures well by well."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from morphseq_dagster.engine.tables.document import parse_document
from morphseq_dagster.engine.workspace import Workspace
from morphseq_dagster.errors import PermanentError
from morphseq_dagster.imaging.pictures import read_grey
from morphseq_dagster.morphseq.contracts.ff_images import FfImages
from morphseq_dagster.morphseq.paths import raw_folder
from tests.support.experiments import (
    KEYENCE_EXPERIMENT,
    ChainRun,
    make_tiny_keyence,
    open_data_root,
    run_experiment,
)

EXPERIMENT = "20250529_single"


@pytest.fixture(scope="module")
def keyence(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    data_root = tmp_path_factory.mktemp("keyence") / "root"
    make_tiny_keyence(data_root)
    workspace = open_data_root(data_root)
    run_experiment(workspace, KEYENCE_EXPERIMENT, until="ff_images")
    return workspace


def read_manifest(workspace: Workspace, experiment: str = EXPERIMENT) -> FfImages:
    path = workspace.output("ff_images", experiment=experiment)
    return parse_document(FfImages, path.read_bytes(), where=str(path))


def field(value: int = 120, *, shape: tuple[int, int] = (40, 60)) -> NDArray[np.uint8]:
    return np.full(shape, value, np.uint8)


def write_pictures(
    data_root: Path, pictures: dict[str, NDArray[np.generic]], *, rows: list[str], header: str = ""
) -> Workspace:
    """A raw folder of single pictures; rows of the table as given."""
    workspace = open_data_root(data_root)
    folder = raw_folder(workspace.layout, "Frames", experiment=EXPERIMENT)
    folder.mkdir(parents=True)
    for name, pixels in pictures.items():
        cv2.imwrite(str(folder / name), pixels)
    text = [header or "well,time_int,time_s,path,um_per_px", *rows]
    (folder / "frames.csv").write_text("\n".join(text) + "\n")
    return workspace


def run(workspace: Workspace) -> ChainRun:
    return run_experiment(workspace, EXPERIMENT, until="ff_images")


def test_keyence_frames_carry_no_channel_in_their_name_and_are_inverted(keyence: Workspace) -> None:
    manifest = read_manifest(keyence, KEYENCE_EXPERIMENT)
    folder = f"built_image_data/stitched_FF_images/{KEYENCE_EXPERIMENT}"
    assert [frame.path for frame in manifest.frames] == [
        f"{folder}/{well}_t{t:04d}_stitch.jpg" for well in ("A01", "B02") for t in (1, 2)
    ]
    assert (manifest.microscope, manifest.polarity) == ("Keyence", "inverted")
    picture = read_grey(keyence.layout.absolute(manifest.frames[0].path)).pixels
    # the acquired field is bright (about 195), its picture therefore dark
    assert np.median(picture) < 100


def test_keyence_frame_tells_tile_geometry_time_and_tiles(keyence: Workspace) -> None:
    first, second = read_manifest(keyence, KEYENCE_EXPERIMENT).frames[:2]
    assert (first.raw_height_px, first.raw_width_px) == (360, 480)
    assert first.um_per_px == pytest.approx(5.661627, rel=1e-5)
    assert first.time_s is not None
    assert second.time_s == pytest.approx(first.time_s + 1800)
    assert len(first.tiles) == 2
    assert len(first.sources) == 6


def test_sources_are_the_hashes_of_the_files_that_were_read(keyence: Workspace) -> None:
    raw = raw_folder(keyence.layout, "Keyence", experiment=KEYENCE_EXPERIMENT)
    for path, digest in read_manifest(keyence, KEYENCE_EXPERIMENT).frames[0].sources.items():
        assert hashlib.sha256((raw / path).read_bytes()).hexdigest() == digest


def test_single_pictures_carry_their_channel_and_keep_their_polarity(tmp_path: Path) -> None:
    workspace = write_pictures(
        tmp_path, {"a.png": field(), "b.png": field(90)}, rows=["A01,3,60,a.png,2.5", "b2,0,1,b.png,"]
    )
    run(workspace)
    manifest = read_manifest(workspace)
    folder = f"built_image_data/stitched_FF_images/{EXPERIMENT}"
    assert [f.path for f in manifest.frames] == [
        f"{folder}/A01_t0003_ch00_stitch.jpg",
        f"{folder}/B02_t0000_ch00_stitch.jpg",
    ]
    assert manifest.polarity == "as_acquired"
    first, second = manifest.frames
    assert (first.height_px, first.width_px, first.um_per_px, first.time_s) == (40, 60, 2.5, 60.0)
    assert second.um_per_px is None
    assert abs(int(read_grey(workspace.layout.absolute(first.path)).pixels[0, 0]) - 120) <= 1


def test_grey_jpeg_keeps_its_bytes(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    workspace = write_pictures(tmp_path, {"a.jpg": rng.integers(0, 255, (40, 60), np.uint8)}, rows=["A01,0,0,a.jpg,2"])
    run(workspace)
    raw = raw_folder(workspace.layout, "Frames", experiment=EXPERIMENT) / "a.jpg"
    assert workspace.layout.absolute(read_manifest(workspace).frames[0].path).read_bytes() == raw.read_bytes()


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bits_are_stretched_to_eight_per_frame(tmp_path: Path, suffix: str) -> None:
    # half the pixels at 1000, half at 3000: the 0.1 and 99.9 percentiles
    deep = np.full((40, 60), 1000, np.uint16)
    deep[:, 30:] = 3000
    workspace = write_pictures(tmp_path, {f"a.{suffix}": deep}, rows=[f"A01,0,0,a.{suffix},2"])
    run(workspace)
    picture = read_grey(workspace.layout.absolute(read_manifest(workspace).frames[0].path)).pixels
    assert picture.dtype == np.uint8
    assert int(picture[20, 5]) <= 2
    assert int(picture[20, 55]) >= 253


def test_colour_channels_that_are_equal_count_as_grey_and_others_are_refused(tmp_path: Path) -> None:
    same, other = np.dstack([field()] * 3), np.dstack([field(), field(), field(30)])
    workspace = write_pictures(tmp_path, {"a.png": same, "b.png": other}, rows=["A01,0,0,a.png,2", "A02,0,0,b.png,2"])
    record = run(workspace).records["ff_images"]
    assert record.status == "degraded"
    assert (record.wells["A01"].status, record.wells["A02"].status) == ("ok", "failed")
    assert "b.png" in record.wells["A02"].reason
    assert "colour" in record.wells["A02"].reason
    assert "grey" in record.wells["A02"].reason


def test_frame_of_another_size_is_left_out_and_said(tmp_path: Path) -> None:
    pictures = {"a.png": field(), "b.png": field(), "c.png": field(shape=(41, 60))}
    workspace = write_pictures(tmp_path, pictures, rows=[f"A01,{t},{t},{n},2" for t, n in enumerate(pictures)])
    record = run(workspace).records["ff_images"]
    assert [frame.time_int for frame in read_manifest(workspace).frames] == [0, 1]
    assert record.status == "degraded"
    assert "c.png" in record.warnings[0]
    assert "60 x 41 px" in record.warnings[0]
    assert "60 x 40 px" in record.warnings[0]


def test_lost_well_is_named_with_its_reason_relative_to_the_data_root(tmp_path: Path) -> None:
    workspace = write_pictures(
        tmp_path, {"a.png": field(), "b.png": field()}, rows=["A01,0,0,a.png,2", "A02,0,0,b.png,2"]
    )
    (raw_folder(workspace.layout, "Frames", experiment=EXPERIMENT) / "b.png").write_bytes(b"")
    record = run(workspace).records["ff_images"]
    manifest = read_manifest(workspace)
    assert list(manifest.failed_wells) == ["A02"]
    assert "b.png" in manifest.failed_wells["A02"]
    assert str(tmp_path) not in workspace.output("ff_images", experiment=EXPERIMENT).read_text()
    assert record.status == "degraded"


def test_too_many_failed_wells_fail_the_step_naming_each(tmp_path: Path) -> None:
    names = ["a.png", "b.png", "c.png"]
    workspace = write_pictures(
        tmp_path,
        {name: field() for name in names},
        rows=[f"A{i:02d},0,0,{name},2" for i, name in enumerate(names, start=1)],
    )
    for name in names[:2]:
        (raw_folder(workspace.layout, "Frames", experiment=EXPERIMENT) / name).write_bytes(b"no picture")
    with pytest.raises(PermanentError) as caught:
        run(workspace)
    assert "2 failed" in caught.value.found
    assert "A01" in caught.value.found
    assert "A02" in caught.value.found
    assert "b.png" in caught.value.found


def test_share_of_tolerated_wells_is_recipe(tmp_path: Path) -> None:
    workspace = write_pictures(
        tmp_path, {"a.png": field(), "b.png": field()}, rows=["A01,0,0,a.png,2", "A02,0,0,b.png,2"]
    )
    (raw_folder(workspace.layout, "Frames", experiment=EXPERIMENT) / "b.png").write_bytes(b"no picture")
    recipe = workspace.layout.recipes(EXPERIMENT)[1]
    recipe.parent.mkdir()
    recipe.write_text("[ff_images]\nmax_failed_share = 0.0\n")
    with pytest.raises(PermanentError, match=r"at most 0% of 2 wells"):
        run(workspace)


def test_several_channels_are_refused_before_any_well_is_computed(tmp_path: Path) -> None:
    header = "well,time_int,time_s,path,um_per_px,channel"
    workspace = write_pictures(
        tmp_path, {"a.png": field(), "b.png": field()}, rows=["A01,0,0,a.png,2,0", "A01,0,0,b.png,2,1"], header=header
    )
    with pytest.raises(PermanentError, match=r"channels 0, 1.*brightfield"):
        run(workspace)


def test_a_further_well_computes_its_own_pictures_only(tmp_path: Path) -> None:
    workspace = write_pictures(
        tmp_path, {"a.png": field(), "b.png": field()}, rows=["A01,0,0,a.png,2", "A02,0,0,b.png,2"]
    )
    assert run(workspace).wells_computed() == {"ff_images": 2}
    folder = raw_folder(workspace.layout, "Frames", experiment=EXPERIMENT)
    shutil.copyfile(folder / "a.png", folder / "c.png")
    with (folder / "frames.csv").open("a") as table:
        table.write("A03,0,0,c.png,2\n")
    assert run(workspace).wells_computed() == {"ff_images": 1}
    assert [frame.well for frame in read_manifest(workspace).frames] == ["A01", "A02", "A03"]


def test_corrected_pixel_size_computes_its_well_only_and_changes_no_pixel(tmp_path: Path) -> None:
    workspace = write_pictures(
        tmp_path, {"a.png": field(), "b.png": field(90)}, rows=["A01,0,0,a.png,2", "A02,0,0,b.png,2"]
    )
    run(workspace)
    before = read_manifest(workspace)
    table = raw_folder(workspace.layout, "Frames", experiment=EXPERIMENT) / "frames.csv"
    table.write_text(table.read_text().replace("b.png,2", "b.png,3"))
    assert run(workspace).wells_computed() == {"ff_images": 1}
    after = read_manifest(workspace)
    assert [frame.um_per_px for frame in after.frames] == [2.0, 3.0]
    assert after.files == before.files


def test_manifest_is_plain_json_that_lists_every_picture(tmp_path: Path) -> None:
    workspace = write_pictures(tmp_path, {"a.png": field()}, rows=["A01,0,0,a.png,2"])
    run(workspace)
    path = workspace.output("ff_images", experiment=EXPERIMENT)
    data = json.loads(path.read_bytes())
    (name, entry), *_ = data["files"].items()
    picture = workspace.layout.absolute(name)
    assert entry == {"sha256": hashlib.sha256(picture.read_bytes()).hexdigest(), "size": picture.stat().st_size}
    assert list(data["also_read"]) == ["frames.csv"]


def test_well_with_two_pixel_sizes_is_refused_naming_both(tmp_path: Path) -> None:
    workspace = write_pictures(
        tmp_path,
        {"a.png": field(), "b.png": field(), "c.png": field()},
        rows=["A01,0,0,a.png,2", "A01,1,1,b.png,2.5", "A02,0,0,c.png,2"],
    )
    record = run(workspace).records["ff_images"]
    assert (record.wells["A01"].status, record.wells["A02"].status) == ("failed", "ok")
    assert "2.0 um/px" in record.wells["A01"].reason
    assert "2.5 um/px" in record.wells["A01"].reason
