"""Bad input of single pictures and tables: a clear error that names file and remedy, and nothing good is lost.

Every case damages an input of a finished experiment, runs it again, and looks at the error, at what was published
before, at the other wells and at a second experiment; then it mends the input and wants the first result back.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from morphseq_dagster.engine.workspace import Workspace
from morphseq_dagster.morphseq.paths import raw_folder
from tests.support.broken_runs import assert_mended, empty, run_broken, run_degraded, scribble, truncate
from tests.support.experiments import (
    FRAMES_EXPERIMENT,
    STEPS,
    open_data_root,
    read_artifacts,
)

AFTER_FRAMES = tuple(step for step in STEPS if step not in ("raw_manifest", "plate_metadata", "ff_images"))


@pytest.fixture
def workspace(frames_root: Path) -> Workspace:
    return open_data_root(frames_root)


def folder_of(workspace: Workspace) -> Path:
    return raw_folder(workspace.layout, "Frames", experiment=FRAMES_EXPERIMENT)


# the table of frames

TABLE_CASES: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "empty": (lambda data: b"", "an empty table"),
    "no text": (lambda data: b"\xff\xfe\x00" + data, "not UTF-8"),
    "columns missing": (
        lambda data: b"\n".join(b",".join(line.split(b",")[:3]) for line in data.splitlines()),
        "column path missing; column um_per_px missing",
    ),
    "heading only": (lambda data: data.splitlines()[0] + b"\n", "nothing usable"),
    "open quote": (lambda data: data.replace(b"A01,0", b'"A01,0', 1), "broken comma-separated text"),
}


@pytest.mark.parametrize("case", TABLE_CASES)
def test_unusable_table_of_frames(workspace: Workspace, finished_frames: Path, case: str) -> None:
    damage, words = TABLE_CASES[case]
    table = folder_of(workspace) / "frames.csv"
    good = table.read_bytes()
    table.write_bytes(damage(good))
    error, run = run_broken(workspace, "ff_images")
    assert words in error.found
    assert str(table) in error.where
    assert set(run.blocked) == set(AFTER_FRAMES)
    table.write_bytes(good)
    assert_mended(workspace, finished_frames)


def test_missing_table_of_frames(workspace: Workspace) -> None:
    (folder_of(workspace) / "frames.csv").unlink()
    error, _ = run_broken(workspace, "ff_images")
    assert error.where.endswith("frames.csv")


def with_row(data: bytes, row: str) -> bytes:
    return data.rstrip(b"\n") + b"\n" + row.encode() + b"\n"


ROW_CASES: dict[str, tuple[Callable[[bytes], bytes], str, str, int]] = {
    # damage, what is found, where, frames that remain
    "second row for a well and time": (
        lambda data: with_row(data, "A01,0,0,A01_t0001.png,6.5"),
        "well A01 time_int 0 channel 0 2 times",
        "frames.csv lines 2, 11",
        8,
    ),
    "path out of the folder": (
        lambda data: with_row(data, "B01,0,0,../20250529_other/A01_t0000.png,6.5"),
        "a path that leaves the folder '../20250529_other/A01_t0000.png'",
        "frames.csv line 11",
        9,
    ),
    "absolute path": (
        lambda data: with_row(data, "B01,0,0,/etc/hostname,6.5"),
        "an absolute path '/etc/hostname'",
        "frames.csv line 11",
        9,
    ),
    "picture that is not there": (
        lambda data: with_row(data, "B01,0,0,B01_t0000.png,6.5"),
        "B01_t0000.png",
        "frames.csv line 11",
        9,
    ),
    "no well": (lambda data: with_row(data, "I13,0,0,A01_t0000.png,6.5"), "well 'I13'", "frames.csv line 11", 9),
    "text for a number": (
        lambda data: with_row(data, "B01,first,soon,A01_t0000.png,wide"),
        "time_int 'first'",
        "frames.csv line 11",
        9,
    ),
    "negative pixel size": (
        lambda data: with_row(data, "B01,0,0,A01_t0000.png,-6.5"),
        "um_per_px -6.5",
        "frames.csv line 11",
        9,
    ),
    "cells missing": (lambda data: with_row(data, "B01,0,0"), "3 cells", "frames.csv line 11", 9),
    "blank path": (lambda data: with_row(data, "B01,0,0,,6.5"), "a blank path", "frames.csv line 11", 9),
}


@pytest.mark.parametrize("case", ROW_CASES)
def test_row_that_cannot_be_used_is_named_and_left_out(workspace: Workspace, finished_frames: Path, case: str) -> None:
    damage, found, where, frames = ROW_CASES[case]
    table = folder_of(workspace) / "frames.csv"
    good = table.read_bytes()
    table.write_bytes(damage(good))
    record = run_degraded(workspace).records["ff_images"]
    assert record.counts["frames"] == frames
    (warning, *_) = [text for text in record.warnings if where in text]
    assert any(found in text for text in record.warnings)
    assert "Remedy: " in warning
    table.write_bytes(good)
    assert_mended(workspace, finished_frames)


def test_link_that_leads_out_of_the_folder_is_not_followed(workspace: Workspace, tmp_path: Path) -> None:
    secret = tmp_path / "secret.png"
    shutil.copyfile(folder_of(workspace) / "A01_t0000.png", secret)
    (folder_of(workspace) / "B01.png").symlink_to(secret)
    table = folder_of(workspace) / "frames.csv"
    table.write_bytes(with_row(table.read_bytes(), "B01,0,0,B01.png,6.5"))
    record = run_degraded(workspace).records["ff_images"]
    assert any("a link that leaves the folder 'B01.png'" in text for text in record.warnings)


# pictures


def colour(path: Path) -> None:
    grey = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
    assert grey is not None
    cv2.imwrite(str(path), cv2.merge([grey, grey // 2, grey // 3]))


def resize(path: Path) -> None:
    grey = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
    assert grey is not None
    cv2.imwrite(str(path), grey[:300])


def deepen(path: Path) -> None:
    grey = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
    assert grey is not None
    cv2.imwrite(str(path), grey.astype(np.uint16) * 257)


PICTURE_CASES: dict[str, tuple[Callable[[Path], None], str]] = {
    "truncated": (truncate, "A02_t0001.png"),
    "zero bytes": (empty, "A02_t0001.png"),
    "colour": (colour, "A02_t0001.png"),
    "another size": (resize, "A02_t0001.png"),
    "sixteen bits among eight": (deepen, "A02_t0001.png"),
    "no picture": (scribble, "A02_t0001.png"),
    "gone": (Path.unlink, "A02_t0001.png"),
}


@pytest.mark.parametrize("case", PICTURE_CASES)
def test_picture_that_cannot_be_used_costs_its_frame_or_well_alone(
    workspace: Workspace, finished_frames: Path, case: str
) -> None:
    damage, name = PICTURE_CASES[case]
    picture = folder_of(workspace) / name
    good = picture.read_bytes()
    damage(picture)
    run = run_degraded(workspace)
    record = run.records["ff_images"]
    reasons = [*record.warnings, *(state.reason for state in record.wells.values())]
    (reason, *_) = [text for text in reasons if name in text]
    assert "expected" in reason
    assert "found" in reason
    assert "Remedy: " in reason
    assert run.wells_computed()["ff_images"] == 1, "the other wells are taken as they are"
    final = read_artifacts(workspace, FRAMES_EXPERIMENT)[
        f"metadata/build06/per_experiment/embryo_latents_final_{FRAMES_EXPERIMENT}.csv"
    ].decode()
    assert final.count(f"\n{FRAMES_EXPERIMENT}_A01_") == 3
    assert f"{FRAMES_EXPERIMENT}_A02_e01_t0001" not in final
    picture.write_bytes(good)
    assert_mended(workspace, finished_frames)


def test_every_picture_damaged_fails_the_step_naming_all(workspace: Workspace) -> None:
    for picture in folder_of(workspace).glob("*.png"):
        truncate(picture)
    error, run = run_broken(workspace, "ff_images")
    for well in ("A01", "A02", "A03"):
        assert f"{well}: " in error.found
    assert "A03_t0000.png" in error.found
    assert set(run.blocked) == set(AFTER_FRAMES)
