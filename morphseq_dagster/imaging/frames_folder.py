"""The `Frames` source: a folder of focused pictures and a table that says what they are.

Pictures of 8 bits pass untouched, of 16 bits are stretched per frame; none is inverted.
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path, PurePosixPath, PureWindowsPath

import numpy as np

from morphseq_dagster.errors import PermanentError
from morphseq_dagster.identifiers import parse_well
from morphseq_dagster.imaging.contrast import stretch_frame
from morphseq_dagster.imaging.parameters import FocusSettings
from morphseq_dagster.imaging.picture_bytes import peek_header, read_file_bytes
from morphseq_dagster.imaging.pictures import decode_grey
from morphseq_dagster.imaging.sources import (
    FocusedFrame,
    Polarity,
    RawFrame,
    RawProblem,
    RawScan,
    refuse_folder,
)
from morphseq_dagster.imaging.stitching import TileOffset, TileStep

TABLE_NAME = "frames.csv"
REQUIRED_COLUMNS = ("well", "time_int", "time_s", "path", "um_per_px")
OPTIONAL_COLUMNS = ("channel",)
_MEND_ROW = f"correct the row in {TABLE_NAME}"


@dataclass(frozen=True)
class _Row:
    line: int
    frame: RawFrame
    size: tuple[int, int, int]


class FramesFolderSource:
    """Raw folder `raw_image_data/Frames/{exp}` of an experiment of already focused pictures."""

    polarity: Polarity = "as_acquired"
    """Pictures keep the polarity they came with."""

    def __init__(self, folder: Path, *, settings: FocusSettings | None = None) -> None:
        del settings  # its scan depends on none
        self._folder = folder

    def scan(self) -> RawScan:
        """Read the table and the headers of the pictures; a row with a problem is named with its line and left out.

        Raises
        ------
        PermanentError
            When the table is missing, unreadable, lacks columns, or no row is usable; all problems are named.
        """
        where = str(self._folder / TABLE_NAME)
        lines, problems = _read_table(read_file_bytes(self._folder / TABLE_NAME), where=where)
        root = self._folder.resolve()
        rows: list[_Row] = []
        for line, cells in lines:
            row, faults = self._read_row(line, cells, root=root)
            problems += faults
            if row is not None:
                rows.append(row)
        for check in (_drop_duplicates, _drop_other_sizes, _drop_disordered_wells):
            rows, faults = check(rows)
            problems += faults
        if not rows:
            raise refuse_folder(
                where,
                expected="at least one usable row",
                problems=problems,
                remedy=f"list the pictures in {TABLE_NAME}: {','.join(REQUIRED_COLUMNS)}",
            )
        frames = sorted((row.frame for row in rows), key=lambda f: (f.well, f.channel, f.time_int))
        return RawScan(tuple(frames), tuple(problems))

    def full_focus(
        self, frame: RawFrame, *, settings: FocusSettings, plate_steps: Sequence[TileStep | None] = ()
    ) -> FocusedFrame:
        """Read one picture; see `RawSource.full_focus`."""
        del plate_steps
        (path,) = frame.files
        data = read_file_bytes(self._folder / path)
        picture = decode_grey(data, where=str(self._folder / path))
        if picture.pixels.dtype == np.uint8:
            pixels = picture.pixels.astype(np.uint8, copy=False)
        else:
            (pixels,) = stretch_frame(
                [picture.pixels], low_percentile=settings.low_percentile, high_percentile=settings.high_percentile
            )
        height, width = pixels.shape
        return FocusedFrame(
            pixels=pixels,
            um_per_px=frame.um_per_px,
            time_s=frame.time_s,
            objective=None,
            channel_name=None,
            width_px=width,
            height_px=height,
            sources=((path, picture.sha256),),
            plane_index=None,
            tile_offsets=(TileOffset(0, 0, "reference", None),),
            encoded=data if picture.plain_grey_jpeg else None,
        )

    def _read_row(self, line: int, cells: dict[str, str], *, root: Path) -> tuple[_Row | None, list[RawProblem]]:
        faults: list[tuple[str, str, str]] = []
        well: str | None = None
        try:
            well = parse_well(cells["well"])
        except PermanentError as error:
            faults.append((error.expected, f"well {cells['well']!r}", _MEND_ROW))
        time_int = _whole_number(cells["time_int"], name="time_int", most=9999, faults=faults)
        channel = _whole_number(cells.get("channel") or "0", name="channel", most=99, faults=faults)
        time_s = _number(cells["time_s"], name="time_s", faults=faults)
        um_per_px = None
        if cells["um_per_px"]:
            um_per_px = _number(cells["um_per_px"], name="um_per_px", faults=faults)
            if um_per_px is not None and um_per_px <= 0:
                faults.append(("um_per_px > 0, or blank when unknown", f"um_per_px {cells['um_per_px']}", _MEND_ROW))
        path, size = cells["path"], None
        refusal = refuse_path(path, root=root)
        if refusal is not None:
            faults.append(("a picture inside the experiment's folder", refusal, _MEND_ROW))
        else:
            try:
                header = peek_header(self._folder / path)
                size = (header.height_px, header.width_px, header.bits)
            except PermanentError as error:
                faults.append((error.expected, f"{path}: {error.found}", error.remedy))
        where = f"{self._folder / TABLE_NAME} line {line}"
        problems = [RawProblem(well, time_int, where, *fault) for fault in faults]
        if problems or well is None or time_int is None or channel is None or time_s is None or size is None:
            return None, problems
        frame = RawFrame(well, time_int, channel, ((PurePosixPath(path).as_posix(),),), time_s, um_per_px)
        return _Row(line, frame, size), []


def refuse_path(path: str, *, root: Path) -> str | None:
    """Say why a path of the table must not be followed; None when it stays inside the folder `root` (resolved).

    Symbolic links that lead out of the folder are refused, too.
    """
    if not path or "\x00" in path:
        return "a blank path" if not path else f"a path with a null character {path!r}"
    if PurePosixPath(path).is_absolute() or PureWindowsPath(path).drive or path.startswith("\\"):
        return f"an absolute path {path!r}"
    if ".." in PurePosixPath(path).parts or ".." in PureWindowsPath(path).parts:
        return f"a path that leaves the folder {path!r}"
    try:
        target = (root / path).resolve()
    except (OSError, RuntimeError) as error:
        return f"a path that cannot be followed {path!r} ({error})"
    if not target.is_relative_to(root):
        return f"a link that leaves the folder {path!r}"
    return None


def _read_table(data: bytes, *, where: str) -> tuple[list[tuple[int, dict[str, str]]], list[RawProblem]]:
    """Rows of the table with their line numbers, and the rows that are not whole; blank lines are passed over."""
    remedy = f"save the table as comma-separated UTF-8 with the columns {','.join(REQUIRED_COLUMNS)}"

    def refuse(found: str) -> PermanentError:
        return PermanentError(expected="a table of frames", found=found, where=where, remedy=remedy)

    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise refuse(f"text that is not UTF-8 (byte {error.start})") from error
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        lines = [(reader.line_num, [cell.strip() for cell in cells]) for cells in reader]
    except csv.Error as error:
        raise refuse(f"broken comma-separated text at line {reader.line_num} ({error})") from error
    if not lines or not any(lines[0][1]):
        raise refuse("an empty table")
    header = lines[0][1]
    faults = [f"column {name} missing" for name in REQUIRED_COLUMNS if name not in header]
    known = (*REQUIRED_COLUMNS, *OPTIONAL_COLUMNS)
    faults += [f"column {name} twice" for name in known if header.count(name) > 1]
    body = [(line, cells) for line, cells in lines[1:] if any(cells)]
    if faults:
        raise refuse("; ".join(faults))
    ragged = [
        RawProblem(None, None, f"{where} line {line}", f"{len(header)} cells", f"{len(cells)} cells", _MEND_ROW)
        for line, cells in body
        if len(cells) != len(header)
    ]
    whole = [(line, dict(zip(header, cells, strict=True))) for line, cells in body if len(cells) == len(header)]
    return whole, ragged


def _whole_number(text: str, *, name: str, most: int, faults: list[tuple[str, str, str]]) -> int | None:
    if re.fullmatch(r"[0-9]{1,9}", text) and int(text) <= most:
        return int(text)
    faults.append((f"{name} as a whole number 0 to {most}", f"{name} {text!r}", _MEND_ROW))
    return None


def _number(text: str, *, name: str, faults: list[tuple[str, str, str]]) -> float | None:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if math.isfinite(value):
        return value
    faults.append((f"{name} as a finite number", f"{name} {text!r}", _MEND_ROW))
    return None


def _drop_duplicates(rows: list[_Row]) -> tuple[list[_Row], list[RawProblem]]:
    groups: dict[tuple[str, int, int], list[_Row]] = defaultdict(list)
    for row in rows:
        groups[row.frame.well, row.frame.channel, row.frame.time_int].append(row)
    # Which of the rows is right cannot be known, so none is used.
    kept = [group[0] for group in groups.values() if len(group) == 1]
    problems = [
        RawProblem(
            well,
            time_int,
            f"{TABLE_NAME} lines {', '.join(str(row.line) for row in group)}",
            "one row per well, time_int and channel",
            f"well {well} time_int {time_int} channel {channel} {len(group)} times",
            "remove the rows that are wrong",
        )
        for (well, channel, time_int), group in groups.items()
        if len(group) > 1
    ]
    return kept, problems


def _drop_other_sizes(rows: list[_Row]) -> tuple[list[_Row], list[RawProblem]]:
    """Within a well every picture has the size and depth of most; of equally frequent ones the first met counts."""
    sizes: dict[str, Counter[tuple[int, int, int]]] = defaultdict(Counter)
    for row in rows:
        sizes[row.frame.well][row.size] += 1
    usual = {well: counts.most_common(1)[0][0] for well, counts in sizes.items()}
    problems = []
    for row in rows:
        height, width, bits = usual[row.frame.well]
        if row.size != usual[row.frame.well]:
            problems.append(
                RawProblem(
                    row.frame.well,
                    row.frame.time_int,
                    f"{TABLE_NAME} line {row.line} ({row.frame.files[0]})",
                    f"{width} x {height} px of {bits} bits like the other pictures of the well",
                    f"{row.size[1]} x {row.size[0]} px of {row.size[2]} bits",
                    "export all pictures of a well at one size and depth, or remove the row",
                )
            )
    return [row for row in rows if row.size == usual[row.frame.well]], problems


def _drop_disordered_wells(rows: list[_Row]) -> tuple[list[_Row], list[RawProblem]]:
    """A well whose seconds run backwards against its frame numbers is left out: which row is wrong is unknown."""
    problems, bad = [], set()
    groups: dict[tuple[str, int], list[_Row]] = defaultdict(list)
    for row in rows:
        groups[row.frame.well, row.frame.channel].append(row)
    for (well, _), group in groups.items():
        series = sorted(group, key=lambda row: row.frame.time_int)
        for before, after in pairwise(series):
            if (after.frame.time_s or 0.0) < (before.frame.time_s or 0.0):
                bad.add(well)
                problems.append(
                    RawProblem(
                        well,
                        None,
                        f"{TABLE_NAME} lines {before.line} and {after.line}",
                        "time_s that does not fall while time_int rises",
                        f"well {well}: {before.frame.time_s} s at time_int {before.frame.time_int}, "
                        f"{after.frame.time_s} s at {after.frame.time_int}",
                        "correct time_s or time_int of the well",
                    )
                )
    return [row for row in rows if row.frame.well not in bad], problems
