"""The Frames source: every bad row is named, every good one is kept."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from morphseq_dagster.errors import PermanentError
from morphseq_dagster.imaging.frames_folder import FramesFolderSource, refuse_path
from morphseq_dagster.imaging.pictures import decode_grey, encode_jpeg, encode_png
from morphseq_dagster.imaging.sources import FocusSettings

HEADING = "well,time_int,time_s,path,um_per_px"


def picture(value: int = 90, *, dtype: type = np.uint8, shape: tuple[int, int] = (20, 30)) -> np.ndarray:
    return (np.arange(shape[0] * shape[1]).reshape(shape) % 50 + value).astype(dtype)


def experiment(tmp_path: Path, rows: list[str], *, heading: str = HEADING) -> FramesFolderSource:
    folder = tmp_path / "20240101_test"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "frames.csv").write_text("\n".join([heading, *rows]) + "\n", encoding="utf-8")
    for name in ("a.png", "b.png", "c.png"):
        (folder / name).write_bytes(encode_png(picture(), compression=1))
    return FramesFolderSource(folder)


def test_rows_become_sorted_frames(tmp_path: Path) -> None:
    scan = experiment(tmp_path, ["b2,1,120.5,a.png,3.25", " a10 ,0,0,b.png,", "A1,0,0,c.png,3.25"]).scan()
    assert scan.problems == ()
    assert [(f.well, f.time_int, f.time_s, f.um_per_px, f.files) for f in scan.frames] == [
        ("A01", 0, 0.0, 3.25, ("c.png",)),
        ("A10", 0, 0.0, None, ("b.png",)),
        ("B02", 1, 120.5, 3.25, ("a.png",)),
    ]
    assert scan.wells == ("A01", "A10", "B02")


def test_all_bad_rows_are_named_at_once_and_good_ones_stay(tmp_path: Path) -> None:
    source = experiment(
        tmp_path,
        [
            "A01,0,0,a.png,3.25",
            "A02,0,0,../a.png,3.25",
            "A03,0,0,/etc/passwd,3.25",
            "A04,0,0,none.png,3.25",
            "Z09,0,0,a.png,3.25",
            "A05,zero,0,a.png,3.25",
            "A06,0,later,a.png,3.25",
            "A07,0,0,a.png,-1",
            "A08,0,inf,a.png,3.25",
            "A09,0,0,a.png,nan",
            "A10,10000,0,a.png,3.25",
            "A11,0,0,,3.25",
            "A12,0,0,a.png",
            "B01,0,,a.png,1",
        ],
    )
    scan = source.scan()
    assert [frame.well for frame in scan.frames] == ["A01"]
    assert [(p.well, p.where.rsplit(" ", 1)[1]) for p in scan.problems] == [
        (None, "14"),
        ("A02", "3"),
        ("A03", "4"),
        ("A04", "5"),
        (None, "6"),
        ("A05", "7"),
        ("A06", "8"),
        ("A07", "9"),
        ("A08", "10"),
        ("A09", "11"),
        ("A10", "12"),
        ("A11", "13"),
        ("B01", "15"),
    ]
    assert "leaves the folder" in scan.problems_of("A02")[0].found
    assert "absolute" in scan.problems_of("A03")[0].found
    assert all(p.remedy for p in scan.problems)


def test_one_row_with_several_faults_names_each(tmp_path: Path) -> None:
    scan = experiment(tmp_path, ["A01,0,0,a.png,1", "A02,x,y,..,0"]).scan()
    assert len(scan.problems_of("A02")) == 4


def test_duplicate_well_and_time_drops_both_and_names_lines(tmp_path: Path) -> None:
    scan = experiment(tmp_path, ["A01,0,0,a.png,1", "a1,0,0,b.png,1", "A01,1,60,c.png,1"]).scan()
    assert [frame.time_int for frame in scan.frames] == [1]
    assert scan.problems[0].where == "frames.csv lines 2, 3"


def test_same_time_in_two_channels_is_no_duplicate(tmp_path: Path) -> None:
    heading = HEADING + ",channel"
    scan = experiment(tmp_path, ["A01,0,0,a.png,1,0", "A01,0,0,b.png,1,1", "A01,1,5,c.png,1,"], heading=heading).scan()
    assert [(f.channel, f.time_int) for f in scan.frames] == [(0, 0), (0, 1), (1, 0)]
    assert scan.problems == ()


def test_link_that_leaves_the_folder_is_refused(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "x.png").write_bytes(encode_png(picture(), compression=1))
    source = experiment(tmp_path, ["A01,0,0,link.png,1", "A02,0,0,linked/x.png,1", "A03,0,0,inner.png,1"])
    folder = tmp_path / "20240101_test"
    (folder / "link.png").symlink_to(outside / "x.png")
    (folder / "linked").symlink_to(outside)
    (folder / "inner.png").symlink_to("a.png")
    scan = source.scan()
    assert scan.wells == ("A03",)
    assert ["link that leaves" in p.found for p in scan.problems] == [True, True]


def test_experiment_folder_may_itself_be_a_link(tmp_path: Path) -> None:
    experiment(tmp_path, ["A01,0,0,a.png,1"])
    (tmp_path / "alias").symlink_to(tmp_path / "20240101_test")
    assert FramesFolderSource(tmp_path / "alias").scan().wells == ("A01",)


@given(st.text(max_size=30))
def test_no_accepted_path_leads_out(path: str) -> None:
    root = Path("/tmp/some-root-that-is-not-there")
    if refuse_path(path, root=root) is None:
        assert (root / path).resolve().is_relative_to(root)
        assert ".." not in Path(path).parts


def test_other_size_or_depth_within_a_well_is_named(tmp_path: Path) -> None:
    rows = ["A01,0,0,a.png,1", "A01,1,1,b.png,1", "A01,2,2,big.png,1", "A01,3,3,deep.png,1", "A02,0,0,big.png,1"]
    source = experiment(tmp_path, rows)
    folder = tmp_path / "20240101_test"
    (folder / "big.png").write_bytes(encode_png(picture(shape=(21, 30)), compression=1))
    (folder / "deep.png").write_bytes(encode_png(picture(dtype=np.uint16), compression=1))
    scan = source.scan()
    assert [(f.well, f.time_int) for f in scan.frames] == [("A01", 0), ("A01", 1), ("A02", 0)]
    assert [p.found for p in scan.problems] == ["30 x 21 px of 8 bits", "30 x 20 px of 16 bits"]


def test_zero_byte_picture_is_found_at_the_scan(tmp_path: Path) -> None:
    source = experiment(tmp_path, ["A01,0,0,a.png,1", "A02,0,0,empty.png,1"])
    (tmp_path / "20240101_test" / "empty.png").touch()
    assert "0 bytes" in source.scan().problems_of("A02")[0].found


def test_seconds_that_run_backwards_lose_the_well_only(tmp_path: Path) -> None:
    scan = experiment(tmp_path, ["A01,0,100,a.png,1", "A01,1,50,b.png,1", "A02,0,0,c.png,1"]).scan()
    assert scan.wells == ("A02",)
    assert scan.problems[0].where == "frames.csv lines 2 and 3"


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"", "empty"),
        (b"well,time_int\nA01,0\n", "column time_s missing; column path missing; column um_per_px missing"),
        (HEADING.replace(",", ";").encode(), "column well missing"),
        (HEADING.encode() + b",well\n", "column well twice"),
        (HEADING.encode() + b"\nA01,0,0,\xff.png,1\n", "not UTF-8"),
        (HEADING.encode() + b'\nA01,0,0,"a.png,1\n', "broken"),
        (HEADING.encode() + b"\n", "nothing usable"),
    ],
)
def test_unusable_table_is_an_error_of_the_experiment(tmp_path: Path, content: bytes, found: str) -> None:
    (tmp_path / "frames.csv").write_bytes(content)
    with pytest.raises(PermanentError, match=found):
        FramesFolderSource(tmp_path).scan()


def test_missing_table_is_an_error_of_the_experiment(tmp_path: Path) -> None:
    with pytest.raises(PermanentError, match=r"frames\.csv"):
        FramesFolderSource(tmp_path).scan()


def test_no_usable_row_names_all_problems(tmp_path: Path) -> None:
    with pytest.raises(PermanentError) as caught:
        experiment(tmp_path, ["A01,0,0,none.png,1", "X1,0,0,a.png,1"]).scan()
    assert "none.png" in caught.value.found
    assert "'X1'" in caught.value.found


def test_byte_order_mark_and_windows_line_ends_are_read(tmp_path: Path) -> None:
    source = experiment(tmp_path, [])
    (tmp_path / "20240101_test/frames.csv").write_bytes(
        b"\xef\xbb\xbf" + f"{HEADING}\r\nA01,0,0,a.png,1\r\n\r\n".encode()
    )
    assert source.scan().wells == ("A01",)


def test_8_bit_pictures_pass_untouched(tmp_path: Path) -> None:
    source = experiment(tmp_path, ["A01,0,7.5,a.png,3.25"])
    focused = source.full_focus(source.scan().frames[0], settings=FocusSettings())
    np.testing.assert_array_equal(focused.pixels, picture())
    assert (focused.time_s, focused.um_per_px, focused.encoded, focused.plane_index) == (7.5, 3.25, None, None)
    data = (tmp_path / "20240101_test/a.png").read_bytes()
    assert focused.sources == (("a.png", hashlib.sha256(data).hexdigest()),)
    assert (focused.width_px, focused.height_px) == (30, 20)
    assert source.polarity == "as_acquired"


def test_grey_jpeg_keeps_its_bytes(tmp_path: Path) -> None:
    source = experiment(tmp_path, ["A01,0,0,a.jpg,1"])
    data = encode_jpeg(picture(), quality=80)
    (tmp_path / "20240101_test/a.jpg").write_bytes(data)
    focused = source.full_focus(source.scan().frames[0], settings=FocusSettings())
    assert focused.encoded == data
    np.testing.assert_array_equal(focused.pixels, decode_grey(data, where="x").pixels)


def test_16_bit_pictures_are_stretched_and_not_inverted(tmp_path: Path) -> None:
    source = experiment(tmp_path, ["A01,0,0,deep.png,1"])
    ramp = np.linspace(1000, 3000, 600).reshape(20, 30).astype(np.uint16)
    (tmp_path / "20240101_test/deep.png").write_bytes(encode_png(ramp, compression=1))
    focused = source.full_focus(source.scan().frames[0], settings=FocusSettings())
    assert focused.pixels.dtype == np.uint8
    assert (np.diff(focused.pixels.ravel().astype(int)) >= 0).all()
    assert (focused.pixels.min(), focused.pixels.max()) == (0, 255)


def test_truncated_picture_fails_alone(tmp_path: Path) -> None:
    source = experiment(tmp_path, ["A01,0,0,a.png,1", "A02,0,0,cut.png,1"])
    whole = encode_png(picture(shape=(20, 30)), compression=0)
    (tmp_path / "20240101_test/cut.png").write_bytes(whole[: len(whole) // 2])
    good, cut = source.scan().frames
    assert source.full_focus(good, settings=FocusSettings()).pixels.shape == (20, 30)
    with pytest.raises(PermanentError, match=r"cut\.png.*truncated"):
        source.full_focus(cut, settings=FocusSettings())


def test_assembled_real_experiments_scan_without_problems(shared: Path, tmp_path: Path) -> None:
    script = shared / "experiments" / "assemble.py"
    subprocess.run([sys.executable, str(script), str(tmp_path / "data")], check=True, capture_output=True)
    folders = sorted((tmp_path / "data/raw_image_data/Frames").iterdir())
    scans = {folder.name: FramesFolderSource(folder).scan() for folder in folders}
    assert all(scan.problems == () for scan in scans.values())
    assert sum(len(scan.frames) for name, scan in scans.items() if "kimmelnet" in name) == 38
    frames = scans["20210930_embryonet"].frames
    assert (len(frames), frames[0].well, frames[0].time_int, frames[0].um_per_px) == (18, "A10", 10, 3.25)
    focused = FramesFolderSource(folders[0].parent / "20210930_embryonet").full_focus(
        frames[0], settings=FocusSettings()
    )
    assert focused.pixels.shape == (2048, 2048)
    assert focused.encoded is not None
