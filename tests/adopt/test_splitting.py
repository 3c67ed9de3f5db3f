from __future__ import annotations

import csv
import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from morphseq_dagster.adopt.splitting import (
    JSON_RULES,
    iter_entries,
    read_piece,
    split_csv,
    split_json,
    split_once,
)
from morphseq_dagster.engine.layout import Layout
from morphseq_dagster.errors import PermanentError

A, B = "20240418", "20250529_36hpf_ctrl"
_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**40), 2**40) | st.text(max_size=5) | st.floats(-1e6, 1e6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=12,
)


def detections() -> dict[str, Any]:
    def image(score: float) -> dict[str, Any]:
        return {"annotations": [{"detections": [{"box_xyxy": [0, 0, 1, 1], "confidence": score}]}]}

    return {
        "file_info": {"creation_time": "x"},
        "images": {f"{A}_A01_ch00_t0000": image(0.5), f"{B}_A01_t0007": image(0.25), "nonsense": image(1)},
        "high_quality_annotations": {
            A: {"prompt": "p", "confidence_threshold": 0.45, "iou_threshold": 0.5, "filtered": {"i": [1]}},
            B: {"prompt": "q", "confidence_threshold": 0.4, "iou_threshold": 0.5, "filtered": {}},
        },
        "entity_tracker": {"entities": {"images": ["a", "b"]}},
    }


def test_a_document_is_cut_by_experiment(tmp_path: Path) -> None:
    source = tmp_path / "all.json"
    value = detections()
    source.write_text(json.dumps(value, indent=1))
    (tmp_path / "pieces").mkdir()
    split = split_json(source, kind="detections", folder=tmp_path / "pieces")
    assert split.sha256 == hashlib.sha256(source.read_bytes()).hexdigest()
    assert split.entries == {A: 5, B: 4}
    assert (split.refused, split.refused_count) == (("images/nonsense",), 1)
    piece = read_piece(tmp_path / "pieces", experiment=B)
    assert piece["images"] == {f"{B}_A01_t0007": value["images"][f"{B}_A01_t0007"]}
    assert piece["high_quality_annotations"] == {B: {"prompt": "q", "confidence_threshold": 0.4, "iou_threshold": 0.5}}


def test_header_values_reach_every_piece(tmp_path: Path) -> None:
    source = tmp_path / "all.json"
    videos = {name: {"experiment_id": name, "videos": {f"{name}_A01": {"n": [1, {"x": 2}]}}} for name in (A, B)}
    flags = {"by_snip": {f"{A}_A01_e01_s0000": {"F": []}}, "by_image": {}, "qc_history": [{"big": [1]}]}
    source.write_text(json.dumps({"gsam_id": "g", "experiments": videos, "flags": flags}))
    split_json(source, kind="segmentations", folder=tmp_path)
    for name in (A, B):
        piece = read_piece(tmp_path, experiment=name)
        assert piece["gsam_id"] == "g"
        assert piece["experiments"] == {name: {"videos": videos[name]["videos"]}}
    assert read_piece(tmp_path, experiment=A)["flags"] == {"by_snip": flags["by_snip"]}
    assert "flags" not in read_piece(tmp_path, experiment=B)


@given(
    st.dictionaries(st.sampled_from(["a", "b", "c.d"]), _VALUES, max_size=3),
    st.dictionaries(st.text(max_size=3), _VALUES, max_size=3),
)
def test_entries_are_those_of_a_whole_parse(images: dict[str, Any], other: dict[str, Any]) -> None:
    value = {**{k: v for k, v in other.items() if k not in ("images", "high_quality_annotations")}, "images": images}
    data = json.dumps(value).encode()

    class Whole:
        def __init__(self) -> None:
            self.at = 0

        def read(self, size: int) -> bytes:
            self.at, start = self.at + min(size, 7), self.at
            return data[start : self.at]

    found = {path[1]: v for path, _, v in iter_entries(Whole(), rules=JSON_RULES["detections"])}
    assert found == images


@pytest.mark.parametrize("cut", [1, 10, 200])
def test_a_file_that_is_cut_off_is_refused(tmp_path: Path, cut: int) -> None:
    source = tmp_path / "all.json"
    source.write_text(json.dumps(detections())[:-cut])
    with pytest.raises(PermanentError, match="a JSON file"):
        split_json(source, kind="detections", folder=tmp_path)


def test_a_cut_off_file_leaves_no_pieces_that_count(tmp_path: Path) -> None:
    layout, source = Layout(tmp_path / "root"), tmp_path / "all.json"
    whole = json.dumps(detections())
    source.write_text(whole[:-5])
    with pytest.raises(PermanentError):
        split_once(layout, source, kind="detections")
    source.write_text(whole)
    split, folder = split_once(layout, source, kind="detections")
    assert split.entries == {A: 5, B: 4}
    before = sorted((p.name, p.stat().st_mtime_ns) for p in folder.iterdir())
    assert split_once(layout, source, kind="detections") == (split, folder)
    assert sorted((p.name, p.stat().st_mtime_ns) for p in folder.iterdir()) == before


@pytest.mark.parametrize("column", ["experiment_date", "snip_id"])
def test_a_table_is_cut_by_experiment(tmp_path: Path, column: str) -> None:
    source = tmp_path / "df01.csv"
    rows = [{"snip_id": f"{name}_A01_e01_t{n:04d}", "experiment_date": name, "note": 'a,"b"\nc'} for n in range(3)
            for name in (A, B)]  # fmt: skip
    names = ["snip_id", "note"] + (["experiment_date"] if column == "experiment_date" else [])
    with source.open("w", newline="") as handle:
        writer = csv.DictWriter(handle, names, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
        handle.write("broken line\n")
    split = split_csv(source, folder=tmp_path)
    assert split.entries == {A: 3, B: 3}
    assert (split.refused_count, len(split.refused)) == (1, 1)
    assert split.sha256 == hashlib.sha256(source.read_bytes()).hexdigest()
    with (tmp_path / f"{B}.csv").open(newline="") as handle:
        assert [r["note"] for r in csv.DictReader(handle)] == ['a,"b"\nc'] * 3


def test_a_table_that_names_no_experiment_is_refused(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("a,b\n1,2\n")
    with pytest.raises(PermanentError, match="experiment_id"):
        split_csv(tmp_path / "t.csv", folder=tmp_path)


# The peak of this very program: what `getrusage` tells begins with the memory of the process that started it.
_CHILD = """
import sys
from pathlib import Path
from morphseq_dagster.adopt.splitting import split_csv, split_json

def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))

source, folder, kind = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
base = peak()
split = split_csv(source, folder=folder) if kind == "table" else split_json(source, kind=kind, folder=folder)
print(base, peak(), sum(split.entries.values()))
"""


def _write_json(path: Path, size: int) -> int:
    """Write a segmentation document of about `size` bytes, one video of 100 kB after the other."""
    mask = {"counts": "A" * 900, "size": [1440, 1920], "format": "rle", "area": 1.0, "bbox": [0, 0, 1, 1]}
    video = {"image_ids": {f"i{n}": {"embryos": {"e": {"segmentation": mask}}} for n in range(100)}}
    text, count, written = json.dumps(video), 0, 0
    with path.open("w") as handle:
        handle.write('{"experiments": {')
        while written < size:
            name = f"20240{1 + count % 9}{10 + count // 9 % 19}_x{count}"
            videos = ", ".join(f'"{name}_{row}01": {text}' for row in "ABCDEFGH")
            handle.write((", " if count else "") + f'"{name}": {{"videos": {{{videos}}}}}')
            written, count = written + 8 * len(text), count + 1
        handle.write('}, "flags": {"qc_history": [' + ",".join(['{"x": 1}'] * (size // 100)) + "]}}")
    return 8 * count


def _write_csv(path: Path, size: int) -> int:
    count, written = 0, 0
    with path.open("w") as handle:
        handle.write("snip_id,experiment_date,note\n")
        while written < size:
            name = f"20240418_x{count // 20000}"
            written += handle.write(f"{name}_A01_e01_t{count % 10000:04d},{name},{'x' * 150}\n")
            count += 1
    return count


def _grown_mb(tmp_path: Path, *, kind: str, size: int, write: Callable[[Path, int], int]) -> float:
    source, folder = tmp_path / f"{size}", tmp_path / f"pieces{size}"
    folder.mkdir()
    entries = write(source, size)
    command = [sys.executable, "-c", _CHILD, str(source), str(folder), kind]
    base, peak, found = map(int, subprocess.run(command, capture_output=True, check=True, text=True).stdout.split())
    assert found == entries
    assert source.stat().st_size >= size
    return (peak - base) / 1024


@pytest.mark.parametrize(("kind", "write"), [("segmentations", _write_json), ("table", _write_csv)])
def test_memory_does_not_grow_with_the_file(tmp_path: Path, kind: str, write: Callable[[Path, int], int]) -> None:
    small = _grown_mb(tmp_path, kind=kind, size=2_000_000, write=write)
    large = _grown_mb(tmp_path, kind=kind, size=20_000_000, write=write)
    # Read whole, the larger one would take 18 MB more as bytes alone and several times that as objects.
    assert large - small < 6


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "write"), [("segmentations", _write_json), ("table", _write_csv)])
def test_memory_does_not_grow_with_a_hundred_megabytes(
    tmp_path: Path, kind: str, write: Callable[[Path, int], int]
) -> None:
    small = _grown_mb(tmp_path, kind=kind, size=2_000_000, write=write)
    large = _grown_mb(tmp_path, kind=kind, size=100_000_000, write=write)
    print(f"{kind}: {small:.1f} MB at 2 MB, {large:.1f} MB at 100 MB")
    assert large - small < 8
