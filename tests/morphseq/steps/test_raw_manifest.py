"""The raw manifest: times say where to look, contents say what changed, pixels are read once."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from morphseq_dagster.engine.tables.document import parse_document
from morphseq_dagster.engine.workspace import Workspace
from morphseq_dagster.errors import PermanentError
from morphseq_dagster.morphseq.contracts.raw_manifest import RawFile, RawManifest
from morphseq_dagster.morphseq.paths import raw_folder
from tests.support.experiments import (
    KEYENCE_EXPERIMENT,
    ChainRun,
    change_pixel,
    make_small_frames,
    make_tiny_keyence,
    open_data_root,
    read_artifacts,
    run_experiment,
)

# Planes are 173 kB of uncompressed pixels, so their middle lies outside the 64 KiB hashed at both ends.
PLANE = "XY01/T0001/embryo__XY01_00001_Z002_CH1.tif"


@pytest.fixture(scope="module")
def imaged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    data_root = tmp_path_factory.mktemp("imaged") / "root"
    make_tiny_keyence(data_root)
    run_experiment(open_data_root(data_root), KEYENCE_EXPERIMENT, until="organized_frames")
    return data_root


@pytest.fixture
def workspace(imaged: Path, tmp_path: Path) -> Workspace:
    return open_data_root(Path(shutil.copytree(imaged, tmp_path / "root")))


def read_manifest(workspace: Workspace, experiment: str = KEYENCE_EXPERIMENT) -> RawManifest:
    path = workspace.output("raw_manifest", experiment=experiment)
    return parse_document(RawManifest, path.read_bytes(), where=str(path))


def find_line(manifest: RawManifest, path: str) -> RawFile:
    return next(file for file in manifest.files if file.path == path)


def keyence_folder(workspace: Workspace) -> Path:
    return raw_folder(workspace.layout, "Keyence", experiment=KEYENCE_EXPERIMENT)


def run_imaging(workspace: Workspace) -> ChainRun:
    return run_experiment(workspace, KEYENCE_EXPERIMENT, until="organized_frames")


def touch_all(folder: Path, *, time_ns: int = 1_000_000_000_000_000_000) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            os.utime(path, ns=(time_ns, time_ns))


def test_every_raw_file_is_listed_once_in_order_with_its_size(workspace: Workspace) -> None:
    manifest = read_manifest(workspace)
    paths = [file.path for file in manifest.files]
    # 2 wells x 2 times x 2 tiles x 3 planes, and one file per well that names it
    assert len(paths) == 2 * 2 * 2 * 3 + 2
    assert paths == sorted(set(paths))
    folder = keyence_folder(workspace)
    assert [file.size for file in manifest.files] == [(folder / path).stat().st_size for path in paths]
    assert manifest.total_bytes == sum(file.size for file in manifest.files)
    assert manifest.microscope == "Keyence"


def test_touching_every_raw_file_leaves_the_version_and_computes_nothing_else(workspace: Workspace) -> None:
    before = read_manifest(workspace).version
    touch_all(keyence_folder(workspace))
    run = run_imaging(workspace)
    assert run.computed == ("raw_manifest",)
    assert read_manifest(workspace).version == before
    assert run_imaging(workspace).computed == ()


def test_one_changed_pixel_in_the_middle_of_a_file_of_the_same_size_is_found(workspace: Workspace) -> None:
    before = read_manifest(workspace)
    change_pixel(keyence_folder(workspace) / PLANE)
    run = run_imaging(workspace)
    after = read_manifest(workspace)
    assert after.version != before.version
    assert find_line(after, PLANE).ends_sha256 == find_line(before, PLANE).ends_sha256
    assert find_line(after, PLANE).size == find_line(before, PLANE).size
    assert [file.path for file in after.files if file.whole_sha256] == [PLANE]
    assert run.wells_computed()["ff_images"] == 1


def test_touching_a_changed_file_again_leaves_the_version(workspace: Workspace) -> None:
    change_pixel(keyence_folder(workspace) / PLANE)
    run_imaging(workspace)
    changed = read_manifest(workspace).version
    touch_all(keyence_folder(workspace))
    assert run_imaging(workspace).computed == ("raw_manifest",)
    assert read_manifest(workspace).version == changed


def test_restored_file_gives_the_first_pictures_again(workspace: Workspace, imaged: Path) -> None:
    first = read_artifacts(workspace, KEYENCE_EXPERIMENT)
    path = keyence_folder(workspace) / PLANE
    good = path.read_bytes()
    damaged = bytearray(good)
    damaged[80_000:90_000] = bytes(10_000)  # a black bar, far from both ends
    path.write_bytes(bytes(damaged))
    run_imaging(workspace)
    assert read_artifacts(workspace, KEYENCE_EXPERIMENT) != first
    path.write_bytes(good)
    run = run_imaging(workspace)
    assert run.wells_computed()["ff_images"] == 1
    now = read_artifacts(workspace, KEYENCE_EXPERIMENT)
    assert {name for name in now if name.endswith(".jpg") and now[name] != first[name]} == set()


def test_change_that_is_undone_before_the_pixels_are_read_again_leaves_the_version(workspace: Workspace) -> None:
    before = read_manifest(workspace).version
    path = keyence_folder(workspace) / PLANE
    good = path.read_bytes()
    change_pixel(path)
    run_experiment(workspace, KEYENCE_EXPERIMENT, until="raw_manifest")
    assert read_manifest(workspace).version != before
    path.write_bytes(good)
    assert run_imaging(workspace).computed == ("raw_manifest",)
    assert read_manifest(workspace).version == before


def test_new_and_removed_files_change_the_version(workspace: Workspace) -> None:
    versions = [read_manifest(workspace).version]
    extra = keyence_folder(workspace) / "notes.txt"
    extra.write_text("imaged by the night shift")
    run_imaging(workspace)
    versions.append(read_manifest(workspace).version)
    assert find_line(read_manifest(workspace), "notes.txt").size == 25
    extra.unlink()
    run_imaging(workspace)
    versions.append(read_manifest(workspace).version)
    assert versions[1] != versions[0] == versions[2]


def test_renamed_file_changes_the_version(workspace: Workspace) -> None:
    before = read_manifest(workspace).version
    (keyence_folder(workspace) / "XY01").rename(keyence_folder(workspace) / "XY77")
    run_experiment(workspace, KEYENCE_EXPERIMENT, until="raw_manifest")
    assert read_manifest(workspace).version != before


def test_unchanged_files_are_not_read_again(workspace: Workspace) -> None:
    # A file that may not be read but has its recorded size and time is taken from the earlier manifest.
    path = keyence_folder(workspace) / PLANE
    status = path.stat()
    path.write_bytes(bytes(status.st_size))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    (keyence_folder(workspace) / "new.txt").write_text("x")
    before = read_manifest(workspace)
    run_experiment(workspace, KEYENCE_EXPERIMENT, until="raw_manifest")
    assert find_line(read_manifest(workspace), PLANE) == find_line(before, PLANE)


def test_unfinished_copies_are_not_listed(workspace: Workspace) -> None:
    before = read_manifest(workspace).version
    (keyence_folder(workspace) / ".plane.tif.host.1.0123456789ab.tmp").write_bytes(b"half")
    run_experiment(workspace, KEYENCE_EXPERIMENT, until="raw_manifest")
    assert read_manifest(workspace).version == before


def test_two_raw_folders_of_one_name_are_refused_naming_both(workspace: Workspace) -> None:
    (raw_folder(workspace.layout, "YX1", experiment=KEYENCE_EXPERIMENT)).mkdir(parents=True)
    with pytest.raises(PermanentError) as caught:
        run_imaging(workspace)
    assert f"raw_image_data/Keyence/{KEYENCE_EXPERIMENT}" in caught.value.found
    assert f"raw_image_data/YX1/{KEYENCE_EXPERIMENT}" in caught.value.found
    assert "rename" in caught.value.remedy


def test_absent_raw_folder_is_refused_naming_the_place(tmp_path: Path) -> None:
    workspace = open_data_root(tmp_path)
    with pytest.raises(PermanentError, match=r"raw_image_data.*20240101_none"):
        run_experiment(workspace, "20240101_none", until="raw_manifest")


def write_noisy_tiff(path: Path, *, seed: int) -> None:
    pixels = np.random.default_rng(seed).integers(100, 200, (400, 400), dtype=np.uint8)
    cv2.imwrite(str(path), pixels, [cv2.IMWRITE_TIFF_COMPRESSION, 1])


def test_repaired_file_of_a_failed_well_is_found_although_size_and_ends_are_the_same(tmp_path: Path) -> None:
    experiment = "20250529_repair"
    workspace = open_data_root(tmp_path / "root")
    folder = raw_folder(workspace.layout, "Frames", experiment=experiment)
    folder.mkdir(parents=True)
    rows = ["well,time_int,time_s,path,um_per_px"]
    for well in ("A01", "A02"):
        cv2.imwrite(
            str(folder / f"{well}.png"),
            np.random.default_rng(1).integers(0, 255, (500, 500), dtype=np.uint8),
            [cv2.IMWRITE_PNG_COMPRESSION, 0],
        )
        rows.append(f"{well},0,0,{well}.png,5")
    (folder / "frames.csv").write_text("\n".join(rows) + "\n")
    good = (folder / "A02.png").read_bytes()
    change_pixel(folder / "A02.png")  # breaks the check sum of the PNG in the middle of the file
    run = run_experiment(workspace, experiment, until="ff_images")
    assert run.records["ff_images"].wells["A02"].status == "failed"
    (folder / "A02.png").write_bytes(good)
    run = run_experiment(workspace, experiment, until="ff_images")
    assert run.wells_computed() == {"ff_images": 1}
    assert run.records["ff_images"].wells["A02"].status == "ok"


def test_touching_a_file_of_a_failed_well_leaves_the_version(tmp_path: Path) -> None:
    experiment = "20250529_touch"
    workspace = open_data_root(tmp_path / "root")
    folder = raw_folder(workspace.layout, "Frames", experiment=experiment)
    folder.mkdir(parents=True)
    for well in ("A01", "A02"):
        write_noisy_tiff(folder / f"{well}.tif", seed=1)
    (folder / "frames.csv").write_text("well,time_int,time_s,path,um_per_px\nA01,0,0,A01.tif,5\nA02,0,0,A02.tif,5\n")
    whole = (folder / "A02.tif").read_bytes()
    (folder / "A02.tif").write_bytes(whole[:140_000])
    run_experiment(workspace, experiment, until="ff_images")
    before = read_manifest(workspace, experiment).version
    touch_all(folder)
    run_experiment(workspace, experiment, until="ff_images")
    assert read_manifest(workspace, experiment).version == before


def test_one_changed_number_in_the_middle_of_a_long_table_of_frames_is_found(tmp_path: Path) -> None:
    experiment = "20250529_long"
    data_root = tmp_path / "root"
    make_small_frames(data_root, experiment=experiment)
    workspace = open_data_root(data_root)
    table = raw_folder(workspace.layout, "Frames", experiment=experiment) / "frames.csv"
    header, first, *rest = table.read_text().splitlines()
    # Blank lines are passed over; they make the table long without further pictures.
    padding = [" " * 1000] * 100
    table.write_text("\n".join([header, first, *padding, *rest, *padding]) + "\n")
    run_experiment(workspace, experiment, until="ff_images")
    before = read_manifest(workspace, experiment)
    text = table.read_text()
    assert len(text) > 2 * 64 * 1024
    at = text.index("A02,0,")
    assert 64 * 1024 < at < len(text) - 64 * 1024
    table.write_text(text[:at] + text[at:].replace(",6.5\n", ",6.4\n", 3))  # the rows of A02
    run = run_experiment(workspace, experiment, until="ff_images")
    after = read_manifest(workspace, experiment)
    assert find_line(after, "frames.csv").size == find_line(before, "frames.csv").size
    assert run.wells_computed() == {"ff_images": 1}
    scales = {
        (f["well"], f["time_int"]): f["um_per_px"]
        for f in json.loads(workspace.output("ff_images", experiment=experiment).read_bytes())["frames"]
    }
    assert scales["A02", 0] == 6.4
    assert scales["A01", 0] == 6.5


def test_touching_a_long_table_of_frames_leaves_the_version(tmp_path: Path) -> None:
    experiment = "20250529_long"
    data_root = tmp_path / "root"
    make_small_frames(data_root, experiment=experiment)
    workspace = open_data_root(data_root)
    folder = raw_folder(workspace.layout, "Frames", experiment=experiment)
    (folder / "frames.csv").write_text((folder / "frames.csv").read_text() + (" " * 1000 + "\n") * 200)
    run_experiment(workspace, experiment, until="ff_images")
    before = read_manifest(workspace, experiment).version
    touch_all(folder)
    assert run_experiment(workspace, experiment, until="ff_images").computed == ("raw_manifest",)
    assert read_manifest(workspace, experiment).version == before
