from __future__ import annotations

import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openpyxl import Workbook

from morphseq_dagster.engine.layout import Layout
from morphseq_dagster.engine.pipeline import FoundSource
from morphseq_dagster.errors import TransientError
from morphseq_dagster.morphseq.discovery import (
    LONGEST_QUIET_S,
    QUIET_S,
    SETTLE_S,
    WORKBOOK_MISSING,
    inspect_folder,
    list_folders,
    needed_quiet,
)
from morphseq_dagster.morphseq.paths import raw_folder, raw_root, workbook_folders
from morphseq_dagster.morphseq.pipeline import MORPHSEQ

HOUR = 3600.0
assert MORPHSEQ.sources is not None


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(tmp_path)


def put(layout: Layout, path: str, content: str = "x") -> Path:
    target = raw_root(layout) / path
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(content)
    return target


def found(layout: Layout, *, later_s: float = 0.0) -> dict[str, FoundSource]:
    now = time.time() + later_s
    return {folder.name: inspect_folder(layout, folder, now=now) for folder in list_folders(layout)}


def test_no_raw_folder_means_no_experiments(layout: Layout) -> None:
    assert MORPHSEQ.sources.discover(layout) == ()


def test_raw_root_that_is_a_file_is_an_error_not_an_empty_list(layout: Layout) -> None:
    raw_root(layout).write_text("not a folder")
    with pytest.raises(TransientError, match="raw_image_data"):
        MORPHSEQ.sources.discover(layout)


def test_hidden_underscored_and_ignored_folders_are_skipped_at_both_levels(layout: Layout) -> None:
    for name in (".20240101", "_20240102", "ignore_20240103", "IGNORE", "20240104"):
        put(layout, f"Keyence/{name}/XY01/a.tif")
    put(layout, "ignore/20240105/a.tif")
    put(layout, ".snapshot/20240106/a.tif")
    put(layout, "Keyence/notes.txt")
    assert list(found(layout)) == ["20240104"]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("fish", "8-digit date"),
        ("20241301", "8-digit date"),
        ("20240101_A01", "ends like a well"),
        ("20240101 copy", "8-digit date"),
        ("20240101;rm -rf", "8-digit date"),
        ("20240101_$(id)", "8-digit date"),
        ("2024" + "0" * 200, "characters long"),
    ],
)
def test_bad_name_is_refused_with_its_reason_and_hurts_nobody(layout: Layout, name: str, words: str) -> None:
    put(layout, f"Keyence/{name}/a.tif")
    put(layout, "Keyence/20240101/a.tif")
    entries = found(layout, later_s=3 * HOUR)
    assert entries[name].state == "refused"
    assert words in entries[name].reason
    assert entries["20240101"].state == "ready"


def test_one_name_below_two_microscopes_refuses_that_experiment_only(layout: Layout) -> None:
    put(layout, "Keyence/20240101/a.tif")
    put(layout, "YX1/20240101/a.nd2")
    put(layout, "YX1/20240101_b/a.nd2")
    entries = found(layout, later_s=3 * HOUR)
    assert entries["20240101"].state == "refused"
    assert "Keyence, YX1" in entries["20240101"].reason
    assert entries["20240101_b"].state == "ready"


def test_unknown_microscope_is_refused_by_name(layout: Layout) -> None:
    put(layout, "Zeiss/20240101/a.czi")
    entry = found(layout)["20240101"]
    assert entry.state == "refused"
    assert "Zeiss" in entry.reason


@pytest.mark.parametrize(
    ("files", "state"),
    [
        (["a.nd2"], "ready"),
        (["a.ND2", "notes.txt"], "ready"),
        (["a.nd2", "._a.nd2"], "ready"),
        (["a.nd2", "b.nd2"], "refused"),
        (["notes.txt"], "refused"),
        (["deep/a.nd2"], "refused"),
    ],
)
def test_yx1_wants_exactly_one_nd2(layout: Layout, files: list[str], state: str) -> None:
    for name in files:
        put(layout, f"YX1/20240101/{name}")
    assert found(layout, later_s=3 * HOUR)["20240101"].state == state


def test_keyence_folder_without_pictures_is_refused(layout: Layout) -> None:
    put(layout, "Keyence/20240101/XY01/log.txt")
    entry = found(layout, later_s=3 * HOUR)["20240101"]
    assert (entry.state, entry.reason) == ("refused", "no TIFF file")


def test_empty_folder_is_given_time_then_refused(layout: Layout) -> None:
    raw_folder(layout, "YX1", experiment="20240101").mkdir(parents=True)
    assert found(layout)["20240101"].state == "acquiring"
    assert found(layout, later_s=QUIET_S + 60)["20240101"].state == "refused"


def test_frames_without_their_table_are_refused(layout: Layout) -> None:
    put(layout, "Frames/20240101/a.png")
    entry = found(layout)["20240101"]
    assert entry.state == "refused"
    assert "frames.csv missing" in entry.reason


def test_frames_are_ready_once_every_named_picture_is_there(layout: Layout) -> None:
    put(layout, "Frames/20240101/frames.csv", "well,time_int,time_s,path,um_per_px\nA01,0,0,a.png,1\nA01,1,9,b.png,1\n")
    put(layout, "Frames/20240101/a.png")
    waiting = found(layout, later_s=HOUR)["20240101"]
    assert waiting.state == "acquiring"
    assert "b.png" in waiting.remarks[0]
    put(layout, "Frames/20240101/b.png")
    assert found(layout)["20240101"].state == "acquiring", "the last picture may still be being written"
    assert found(layout, later_s=SETTLE_S + 1)["20240101"].state == "ready"


def test_frames_that_stay_incomplete_are_ready_after_the_quiet_time_with_a_remark(layout: Layout) -> None:
    put(layout, "Frames/20240101/frames.csv", "well,path\nA01,a.png\nA01,b.png\nA01,c.png\n")
    put(layout, "Frames/20240101/a.png")
    entry = found(layout, later_s=3 * HOUR)["20240101"]
    assert entry.state == "ready"
    assert entry.remarks[0] == "named in frames.csv but not there: b.png and 1 more"


@given(content=st.binary(max_size=200))
def test_no_table_of_frames_makes_discovery_raise(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    root = tmp_path_factory.mktemp("frames")
    table = put(Layout(root), "Frames/20240101/frames.csv")
    table.write_bytes(content)
    (entry,) = MORPHSEQ.sources.discover(Layout(root))
    assert entry.state in ("refused", "acquiring")
    shutil.rmtree(root)


def test_acquisition_is_waited_for_until_it_has_been_quiet(layout: Layout) -> None:
    put(layout, "Keyence/20240101/XY01/a.tif")
    early, late = found(layout, later_s=HOUR)["20240101"], found(layout, later_s=QUIET_S + 1)["20240101"]
    assert early.state == "acquiring"
    assert early.ready_in_s == pytest.approx(HOUR, abs=30)
    assert (late.state, late.ready_in_s) == ("ready", None)


@pytest.mark.parametrize("sentinel", ["acquisition_complete", ".complete"])
def test_sentinel_ends_the_waiting_at_once(layout: Layout, sentinel: str) -> None:
    put(layout, "Keyence/20240101/XY01/a.tif")
    put(layout, f"Keyence/20240101/{sentinel}", "")
    assert found(layout)["20240101"].state == "ready"


def test_arrival_counts_not_the_time_that_a_copy_kept(layout: Layout) -> None:
    source = put(layout, "Keyence/20240101/XY01/a.tif")
    subprocess.run(["touch", "-d", "2020-01-01", source], check=True)
    assert found(layout)["20240101"].state == "acquiring"


@pytest.mark.parametrize(
    ("hours", "wanted"),
    [([0.0], QUIET_S), ([0, 0.5, 1.0], QUIET_S), ([0, 3, 4], 6 * HOUR), ([0, 24 * 200], LONGEST_QUIET_S)],
)
def test_quiet_time_is_twice_the_longest_gap_within_limits(hours: list[float], wanted: float) -> None:
    assert needed_quiet([hour * HOUR for hour in hours]) == wanted


def test_file_from_the_future_is_told(layout: Layout) -> None:
    put(layout, "Keyence/20240101/XY01/a.tif")
    entry = found(layout, later_s=-600)["20240101"]
    assert entry.state == "acquiring"
    assert any("in the future" in remark for remark in entry.remarks)


def test_folder_that_cannot_be_read_is_refused_with_the_systems_words(layout: Layout) -> None:
    put(layout, "Keyence/20240101/XY01/a.tif")
    loop = raw_folder(layout, "Keyence", experiment="20240102")
    loop.symlink_to(loop)
    nowhere = raw_folder(layout, "Keyence", experiment="20240103")
    nowhere.symlink_to(raw_root(layout) / "gone")
    entries = found(layout, later_s=3 * HOUR)
    assert entries["20240101"].state == "ready"
    for name in ("20240102", "20240103"):
        assert entries[name].state == "refused"
        assert entries[name].reason.startswith("unreadable: ")


def test_dangling_link_among_the_pictures_is_refused(layout: Layout) -> None:
    put(layout, "Keyence/20240101/XY01/a.tif").with_name("b.tif").symlink_to("gone.tif")
    assert found(layout)["20240101"].reason.startswith("unreadable: ")


def test_link_to_a_folder_elsewhere_is_an_experiment(layout: Layout, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "a.nd2").touch()
    (raw_root(layout) / "YX1").mkdir(parents=True)
    raw_folder(layout, "YX1", experiment="20240101").symlink_to(tmp_path / "elsewhere")
    assert found(layout, later_s=3 * HOUR)["20240101"].state == "ready"


@pytest.mark.skipif(sys.platform != "linux", reason="file names of other systems are text")
def test_name_that_is_no_text_is_refused(layout: Layout) -> None:
    folder = bytes(raw_root(layout) / "Keyence") + b"/2024\xff"
    Path(folder.decode(errors="surrogateescape")).mkdir(parents=True)
    (entry,) = MORPHSEQ.sources.discover(layout)
    assert entry.state == "refused"


def test_fingerprint_follows_path_size_and_time_of_every_file(layout: Layout) -> None:
    first = put(layout, "Keyence/20240101/XY01/a.tif")
    seen = {found(layout)["20240101"].fingerprint}
    first.read_bytes()
    assert {found(layout)["20240101"].fingerprint} == seen, "reading is no change"
    for change in (
        lambda: first.write_text("longer"),
        lambda: subprocess.run(["touch", "-d", "2020-01-01", first], check=True),
        lambda: first.rename(first.with_name("b.tif")),
        lambda: put(layout, "Keyence/20240101/XY02/a.tif"),
    ):
        change()
        fingerprint = found(layout)["20240101"].fingerprint
        assert fingerprint not in seen
        seen.add(fingerprint)


def test_missing_workbook_is_a_remark_and_no_obstacle(layout: Layout) -> None:
    put(layout, "Keyence/20240101/XY01/a.tif")
    entry = found(layout, later_s=3 * HOUR)["20240101"]
    assert (entry.state, entry.workbook, entry.remarks) == ("ready", None, (WORKBOOK_MISSING,))
    folder = workbook_folders(layout)[0]
    folder.mkdir(parents=True)
    Workbook().save(folder / "20240101_well_metadata.xlsx")
    entry = found(layout, later_s=3 * HOUR)["20240101"]
    assert (entry.workbook, entry.remarks) == (folder / "20240101_well_metadata.xlsx", ())


def test_two_candidates_for_the_workbook_are_named(layout: Layout) -> None:
    put(layout, "Keyence/20240101/XY01/a.tif")
    workbook_folders(layout)[0].mkdir(parents=True)
    for suffix in ("_v1", "_v2"):
        (workbook_folders(layout)[0] / f"20240101_well_metadata{suffix}.xlsx").touch()
    entry = found(layout)["20240101"]
    assert entry.workbook is None
    assert "_v1.xlsx" in entry.remarks[0]
    assert "_v2.xlsx" in entry.remarks[0]
