"""Bad input from the microscope: one file costs its well, naming file and remedy; a half-copied folder is said."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile

from morphseq_dagster.engine.workspace import Workspace
from morphseq_dagster.errors import PermanentError
from morphseq_dagster.imaging.pictures import read_grey
from morphseq_dagster.morphseq.paths import raw_folder
from tests.support.experiments import (
    KEYENCE_EXPERIMENT,
    make_tiny_keyence,
    open_data_root,
    read_artifacts,
    run_experiment,
)

# The plate's second well is B02; its folder is the second on the stage's way.
PLANE = "XY02/T0001/embryo__XY02_00001_Z002_CH1.tif"


@pytest.fixture(scope="module")
def imaged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    data_root = tmp_path_factory.mktemp("keyence") / "root"
    make_tiny_keyence(data_root)
    run_experiment(open_data_root(data_root), KEYENCE_EXPERIMENT, until="ff_images")
    return data_root


@pytest.fixture
def workspace(imaged: Path, tmp_path: Path) -> Workspace:
    return open_data_root(Path(shutil.copytree(imaged, tmp_path / "root")))


def folder_of(workspace: Workspace) -> Path:
    return raw_folder(workspace.layout, "Keyence", experiment=KEYENCE_EXPERIMENT)


def truncate(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def rewrite(path: Path, pixels: np.ndarray) -> None:
    """Another picture with the metadata block of the file, as a microscope would have written it."""
    data = path.read_bytes()
    block = data[data.index(b"<Data>") : data.index(b"</Data>") + len(b"</Data>")]
    tifffile.imwrite(path, pixels, photometric="rgb" if pixels.ndim == 3 else "minisblack", metadata=None)
    path.write_bytes(path.read_bytes() + block)


def crop(path: Path) -> None:
    rewrite(path, read_grey(path).pixels[:300])


def deepen(path: Path) -> None:
    rewrite(path, read_grey(path).pixels.astype(np.uint16) * 16)


def colour(path: Path) -> None:
    grey = read_grey(path).pixels
    rewrite(path, np.dstack([grey, grey // 2, grey // 3]))


def scribble(path: Path) -> None:
    path.write_bytes(b"this is no picture at all")


FILE_CASES: dict[str, tuple[Callable[[Path], None], str]] = {
    "truncated": (truncate, "truncated"),
    "zero bytes": (empty, "empty"),
    "another size": (crop, "480 x 300 px"),
    "sixteen bits among eight": (deepen, "uint16"),
    "colour": (colour, "colour"),
    "no picture": (scribble, "PNG, JPEG or TIFF|format|no TIFF|not"),
}


@pytest.mark.parametrize("case", FILE_CASES)
def test_unusable_plane_costs_its_well_alone_and_is_named(workspace: Workspace, case: str) -> None:
    damage, words = FILE_CASES[case]
    before = read_artifacts(workspace, KEYENCE_EXPERIMENT)
    path = folder_of(workspace) / PLANE
    good = path.read_bytes()
    damage(path)
    run = run_experiment(workspace, KEYENCE_EXPERIMENT, until="ff_images")
    record = run.records["ff_images"]
    assert record.status == "degraded"
    assert run.wells_computed() == {"ff_images": 1}
    assert (record.wells["A01"].status, record.wells["B02"].status) == ("ok", "failed")
    reason = record.wells["B02"].reason
    assert PLANE in reason
    assert any(word in reason for word in words.split("|")), reason
    assert "Remedy: " in reason
    degraded = read_artifacts(workspace, KEYENCE_EXPERIMENT)
    kept = {name for name in before if "A01" in name}
    assert kept
    assert all(degraded[name] == before[name] for name in kept)
    path.write_bytes(good)
    run = run_experiment(workspace, KEYENCE_EXPERIMENT, until="ff_images")
    assert run.wells_computed() == {"ff_images": 1}, "the repaired well alone"
    pictures = {n: data for n, data in read_artifacts(workspace, KEYENCE_EXPERIMENT).items() if n.endswith(".jpg")}
    assert pictures == {name: data for name, data in before.items() if name.endswith(".jpg")}


def test_missing_plane_costs_its_frame_and_is_named(workspace: Workspace) -> None:
    (folder_of(workspace) / PLANE).unlink()
    run = run_experiment(workspace, KEYENCE_EXPERIMENT, until="ff_images")
    record = run.records["ff_images"]
    assert record.status == "degraded"
    assert record.counts["frames"] == 3
    (warning,) = record.warnings
    assert "missing tile 1 plane 2" in warning
    assert "XY02 time 1" in warning
    assert str(workspace.data_root) not in warning


def test_well_folder_without_a_name_is_said(workspace: Workspace) -> None:
    (folder_of(workspace) / "XY02" / "_B02").unlink()
    record = run_experiment(workspace, KEYENCE_EXPERIMENT, until="ff_images").records["ff_images"]
    assert record.status == "degraded"
    assert record.counts["wells"] == 1
    assert any("XY02" in text and "_A01" in text for text in record.warnings)


def test_two_folders_of_one_well_are_both_named_and_neither_is_used(workspace: Workspace) -> None:
    (folder_of(workspace) / "XY02" / "_B02").rename(folder_of(workspace) / "XY02" / "_A01")
    with pytest.raises(PermanentError) as caught:
        run_experiment(workspace, KEYENCE_EXPERIMENT, until="ff_images")
    assert "XY01" in str(caught.value)
    assert "XY02" in str(caught.value)


@pytest.mark.parametrize("names", [[], ["one.nd2", "two.nd2"]], ids=["none", "two"])
def test_missing_or_second_nd2_file_is_refused_naming_what_is_there(tmp_path: Path, names: list[str]) -> None:
    workspace = open_data_root(tmp_path / "root")
    folder = raw_folder(workspace.layout, "YX1", experiment="20250529_yx1")
    folder.mkdir(parents=True)
    for name in names:
        (folder / name).write_bytes(b"nd2")
    run = run_experiment(workspace, "20250529_yx1", until="ff_images", keep_going=True)
    error = run.errors["ff_images"]
    assert isinstance(error, PermanentError)
    assert error.expected == "exactly one .nd2 file"
    assert error.found == (", ".join(names) or "no .nd2 file")
    assert error.where == str(folder)
    assert error.remedy


def test_raw_folder_without_a_picture_is_refused(tmp_path: Path) -> None:
    workspace = open_data_root(tmp_path / "root")
    folder = raw_folder(workspace.layout, "Keyence", experiment="20250529_empty")
    (folder / "XY01").mkdir(parents=True)
    (folder / "XY01" / "_A01").touch()
    with pytest.raises(PermanentError, match=r"no TIFF file whose name holds CH"):
        run_experiment(workspace, "20250529_empty", until="ff_images")


def test_sixteen_bit_experiment_is_read(workspace: Workspace) -> None:
    for path in folder_of(workspace).rglob("*.tif"):
        rewrite(path, read_grey(path).pixels.astype(np.uint16) * 200)
    run = run_experiment(workspace, KEYENCE_EXPERIMENT, until="ff_images")
    assert run.records["ff_images"].status == "ok"
    assert run.wells_computed() == {"ff_images": 2}
    picture = next(workspace.layout.folders("ff_images", experiment=KEYENCE_EXPERIMENT)[0].glob("*.jpg"))
    pixels = cv2.imread(str(picture), cv2.IMREAD_UNCHANGED)
    assert pixels is not None
    assert pixels.dtype == np.uint8
    assert np.ptp(pixels) > 200
