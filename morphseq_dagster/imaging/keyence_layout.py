"""Folder and file names of Keyence experiments (spec 3.2; orchestration 1.2); no file is opened here."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from morphseq_dagster.errors import PermanentError
from morphseq_dagster.identifiers import parse_well
from morphseq_dagster.imaging.focus import MAX_PLANES
from morphseq_dagster.imaging.sources import RawFrame, RawProblem, RawScan, refuse_folder

_PLATE_FOLDER = re.compile(r"XY\d+[A-Za-z]?", re.ASCII)
_CYTOMETER_FOLDER = re.compile(r"W0\d+", re.ASCII)
_POSITION_FOLDER = re.compile(r"P(\d+)", re.ASCII)
_TIME_FOLDER = re.compile(r"T(\d+)", re.ASCII)
_PLANE = re.compile(r"_Z(\d+)", re.ASCII)
_CHANNEL = re.compile(r"CH\d*", re.ASCII)
_EXPECTED = "folders XY## or W0## with a marker such as _A01 and TIFF files whose names hold CH"
_COPY_WELL = "copy the whole well folder from the microscope again"


@dataclass(frozen=True)
class _File:
    """One plane as its name tells it."""

    path: str
    time_int: int
    tile: int
    plane: int
    channel: str


def scan_keyence_folder(folder: Path, *, channel: str | None, tiles_per_well: int | None) -> RawScan:
    """List the frames of a Keyence experiment.

    Parameters
    ----------
    channel
        Channel token to use; None when every well has only one.
    tiles_per_well
        Expected tiles; None takes the most frequent count.

    Raises
    ------
    PermanentError
        When the folder is missing or no frame is usable; all problems are named.
    """
    if not folder.is_dir():
        raise PermanentError(
            expected="a folder", found="nothing there", where=str(folder), remedy="put the raw folder in its place"
        )
    problems: list[RawProblem] = []
    frames: list[RawFrame] = []
    for well, path in _wells(folder, problems=problems).items():
        files = list(_files(folder, path, well=well, problems=problems))
        frames += _frames(well, files, where=path, channel=channel, problems=problems)
    frames = _keep_whole(frames, tiles_per_well=tiles_per_well, problems=problems)
    if not frames:
        raise refuse_folder(
            str(folder), expected=_EXPECTED, problems=problems, remedy="copy the whole experiment folder again"
        )
    return RawScan(tuple(sorted(frames, key=lambda f: (f.well, f.time_int))), tuple(problems))


def _subfolders(folder: Path) -> list[Path]:
    return sorted((p for p in folder.iterdir() if p.is_dir() and not p.name.startswith(".")), key=lambda p: p.name)


def _well_folders(folder: Path) -> list[Path]:
    inside = _subfolders(folder)
    for pattern in (_PLATE_FOLDER, _CYTOMETER_FOLDER):
        found = [p for p in inside if pattern.fullmatch(p.name)]
        if found:
            return found
    return []


def _wells(folder: Path, *, problems: list[RawProblem]) -> dict[str, Path]:
    """Well folders by well; the well is named by an entry such as `_A01` inside."""
    # Some experiments hold their well folders one level deeper.
    found = _well_folders(folder) or [p for inner in _subfolders(folder) for p in _well_folders(inner)]
    links = sorted(p.name for p in folder.iterdir() if p.suffix.lower() == ".lnk")
    if links:
        problems.append(
            RawProblem(
                None,
                None,
                str(folder),
                "real folders",
                f"{len(links)} Windows shortcuts ({', '.join(links[:3])})",
                "copy the folders that the shortcuts point to",
            )
        )
    claims: dict[str, list[Path]] = defaultdict(list)
    for path in found:
        markers = sorted(p.name for p in path.iterdir() if p.name.startswith("_"))
        named = set()
        for marker in markers:
            try:
                named.add(parse_well(marker[-3:]))
            except PermanentError:
                continue
        if len(named) == 1:
            claims[named.pop()].append(path)
            continue
        problems.append(
            RawProblem(
                None,
                None,
                str(path),
                "one entry that names the well, such as _A01",
                f"entries {', '.join(markers)}" if markers else "no entry beginning with _",
                "add an empty file named after the well, such as _A01, to the folder",
            )
        )
    for well, paths in claims.items():
        if len(paths) > 1:
            problems.append(
                RawProblem(
                    well,
                    None,
                    ", ".join(str(p) for p in paths),
                    "one folder per well",
                    f"{len(paths)} folders named {well}",
                    "correct the entry that names the well in the wrong folder",
                )
            )
    return {well: paths[0] for well, paths in sorted(claims.items()) if len(paths) == 1}


def _files(root: Path, well_folder: Path, *, well: str, problems: list[RawProblem]) -> Iterator[_File]:
    """Walk `[P#####/][T####/]` and read tile, plane, channel and time from the names."""
    cytometer = _CYTOMETER_FOLDER.fullmatch(well_folder.name) is not None
    tile_in_name = re.compile(rf"{re.escape(well_folder.name)}_(\d{{5}})", re.ASCII)
    positions = _layer(well_folder, _POSITION_FOLDER) or [(None, well_folder)]
    for position, position_folder in positions:
        for time_int, folder in _layer(position_folder, _TIME_FOLDER) or [(0, position_folder)]:
            for path in sorted(folder.iterdir(), key=lambda p: p.name):
                if path.suffix.lower() not in (".tif", ".tiff") or "CH" not in path.name or path.name[0] == ".":
                    continue
                name = path.stem
                in_name = tile_in_name.search(name)
                if cytometer:
                    tile = 1 if position is None else position
                elif in_name:
                    tile = int(in_name[1])
                else:
                    problems.append(
                        RawProblem(
                            well,
                            time_int,
                            str(path),
                            f"{well_folder.name}_ and five digits of the tile number in the name",
                            f"the name {path.name}",
                            "give the file the name the microscope gave it",
                        )
                    )
                    continue
                plane = _PLANE.search(name)
                channel = _CHANNEL.findall(name)[-1]
                yield _File(
                    path.relative_to(root).as_posix(), time_int or 0, tile, int(plane[1]) if plane else 0, channel
                )


def _layer(folder: Path, pattern: re.Pattern[str]) -> list[tuple[int | None, Path]]:
    found = [(int(match[1]), p) for p in _subfolders(folder) if (match := pattern.fullmatch(p.name))]
    return [(number, path) for number, path in sorted(found, key=lambda pair: (pair[0], pair[1].name))]


def _frames(
    well: str, files: list[_File], *, where: Path, channel: str | None, problems: list[RawProblem]
) -> Iterator[RawFrame]:
    channels = sorted({file.channel for file in files})
    chosen = channel if channel is not None else channels[0] if len(channels) == 1 else None
    if chosen is None or chosen not in channels:
        found = f"channels {', '.join(channels)}" if channels else "no TIFF file whose name holds CH"
        expected = f"channel {channel}" if channel else "one channel"
        remedy = "name the brightfield channel in the recipe" if channels else _COPY_WELL
        problems.append(RawProblem(well, None, str(where), expected, found, remedy))
        return
    by_time: dict[int, dict[int, dict[int, list[str]]]] = defaultdict(lambda: defaultdict(lambda: defaultdict(list)))
    for file in files:
        if file.channel == chosen:
            by_time[file.time_int][file.tile][file.plane].append(file.path)
    for time_int in sorted(by_time):
        tiles = by_time[time_int]
        fault = _frame_fault(time_int, tiles)
        if fault is not None:
            problems.append(RawProblem(well, time_int, f"{where} time {time_int}", *fault))
            continue
        ordered = tuple(tuple(tiles[tile][plane][0] for plane in sorted(tiles[tile])) for tile in sorted(tiles))
        yield RawFrame(well, time_int, 0, ordered, None, None)


def _frame_fault(time_int: int, tiles: dict[int, dict[int, list[str]]]) -> tuple[str, str, str] | None:
    if time_int > 9999:
        return "a time number of at most 4 digits", f"time {time_int}", "split the experiment into parts"
    twice = sorted(path for planes in tiles.values() for paths in planes.values() if len(paths) > 1 for path in paths)
    if twice:
        return "one file per tile and plane", f"several: {', '.join(twice)}", "remove the files that do not belong"
    union = sorted({plane for planes in tiles.values() for plane in planes})
    lacking = [f"tile {tile} plane {plane}" for tile in sorted(tiles) for plane in union if plane not in tiles[tile]]
    if lacking:
        return "every plane of every tile", f"missing {', '.join(lacking)}", _COPY_WELL
    if len(union) > MAX_PLANES:
        return f"at most {MAX_PLANES} planes", f"{len(union)} planes", "remove planes far out of focus"
    return None


def _keep_whole(frames: list[RawFrame], *, tiles_per_well: int | None, problems: list[RawProblem]) -> list[RawFrame]:
    """Leave out frames with another tile or plane count than expected: a half-copied or half-acquired frame."""
    if not frames:
        return frames
    counts = Counter(len(frame.tiles) for frame in frames)
    # Of equally frequent counts the larger one: a missing tile is likelier than a surplus one.
    tiles = tiles_per_well or max(counts, key=lambda count: (counts[count], count))
    depths = Counter(len(frame.tiles[0]) for frame in frames)
    planes = max(depths, key=lambda count: (depths[count], count))
    kept = []
    for frame in frames:
        if len(frame.tiles) == tiles and len(frame.tiles[0]) == planes:
            kept.append(frame)
            continue
        problems.append(
            RawProblem(
                frame.well,
                frame.time_int,
                f"{frame.files[0]} and its neighbours",
                f"{tiles} tiles of {planes} planes like the rest of the experiment",
                f"{len(frame.tiles)} tiles of {len(frame.tiles[0])} planes",
                f"{_COPY_WELL}, or set the number of tiles in the recipe",
            )
        )
    return kept
