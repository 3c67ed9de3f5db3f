"""Discovery: which experiments lie in the raw folders, which of them can be worked on, and why the others cannot.

The rules are those of spec 4.1 and 2.1-2.2. Names, sizes, times and the table `frames.csv` are read, never pixels.
Whatever is wrong with one folder becomes its reason and is never raised.
"""

from __future__ import annotations

import csv
import os
import stat
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Final

from morphseq_dagster.engine.layout import Layout
from morphseq_dagster.engine.pipeline import FoundSource, Source, SourceState
from morphseq_dagster.engine.storage.hashing import hash_bytes
from morphseq_dagster.errors import MorphseqError, TransientError
from morphseq_dagster.identifiers import refuse_experiment
from morphseq_dagster.imaging.microscopes import READERS
from morphseq_dagster.morphseq.paths import SENTINELS, raw_folder, raw_root, workbook_folders
from morphseq_dagster.plate.workbook import find_workbook

QUIET_S: Final = 2 * 3600.0
"""Shortest silence in seconds after which an acquisition counts as ended: one frame every half hour is usual."""
LONGEST_QUIET_S: Final = 24 * 3600.0
"""Longest silence waited for: a note added after months must not count as the rhythm of the acquisition."""
SETTLE_S: Final = 30.0
"""Silence in seconds once all expected files are there: the last may still be being written."""
WORKBOOK_MISSING: Final = "workbook missing: tables will wait"
_FINGERPRINT_LENGTH: Final = 16
_SKIPPED: Final = (".", "_", "ignore")


@dataclass(frozen=True)
class _Entry:
    path: str
    size: int
    mtime_ns: int
    arrival: float


@dataclass(frozen=True)
class _Judgement:
    state: SourceState
    reason: str
    ready_in_s: float | None = None
    remarks: tuple[str, ...] = ()


def list_folders(layout: Layout) -> tuple[Source, ...]:
    """List the raw folders by name, without a look inside; sorted by name.

    Raises
    ------
    TransientError
        When the raw folder itself cannot be listed: nothing is known then, which is not the same as no experiments.
    """
    try:
        microscopes = _subfolders(raw_root(layout))
    except FileNotFoundError:
        return ()
    except OSError as error:
        raise TransientError(
            expected="a folder that can be listed",
            found=_say(error),
            where=str(raw_root(layout)),
            remedy="see to the disk and its permissions, then try again",
        ) from error
    seen: dict[str, list[Source]] = defaultdict(list)
    for microscope in microscopes:
        try:
            names = _subfolders(raw_root(layout) / microscope)
        except OSError as error:
            whole = Source(f"{microscope}/", microscope, raw_root(layout) / microscope, f"unreadable: {_say(error)}")
            seen[whole.name].append(whole)
            continue
        for name in names:
            seen[name].append(Source(name, microscope, raw_folder(layout, microscope, experiment=name)))
    return tuple(_judge_name(folders) for _, folders in sorted(seen.items()))


def inspect_folder(layout: Layout, folder: Source, *, now: float | None = None) -> FoundSource:
    """Look into one raw folder and judge it; never raises for what is wrong inside."""
    if folder.reason:
        return FoundSource(folder.name, folder.kind, "refused", folder.reason)
    now = time.time() if now is None else now
    try:
        entries = sorted(_walk(folder.path, ""), key=lambda entry: entry.path)
        judgement = _judge(folder, entries=entries, now=now)
    except OSError as error:
        return FoundSource(folder.name, folder.kind, "refused", f"unreadable: {_say(error)}")
    remarks = list(judgement.remarks)
    newest = max((entry.arrival for entry in entries), default=None)
    if newest is not None and newest > now + SETTLE_S:
        remarks.append(f"the newest file lies {newest - now:.0f} s in the future: compare the clocks")
    workbook, remark = _look_for_workbook(layout, folder.name)
    if remark:
        remarks.append(remark)
    lines = "\n".join(f"{entry.path}\0{entry.size}\0{entry.mtime_ns}" for entry in entries)
    return FoundSource(
        folder.name,
        folder.kind,
        judgement.state,
        judgement.reason,
        ready_in_s=judgement.ready_in_s,
        files=len(entries),
        newest=newest,
        fingerprint=hash_bytes(os.fsencode(f"{folder.kind}\n{lines}"))[:_FINGERPRINT_LENGTH],
        remarks=tuple(remarks),
        workbook=workbook,
    )


def needed_quiet(arrivals: Sequence[float]) -> float:
    """Silence in seconds after which an acquisition counts as ended: twice its longest gap, within limits.

    Parameters
    ----------
    arrivals
        Arrival of every file in seconds, rising.
    """
    longest = max((after - before for before, after in pairwise(arrivals)), default=0.0)
    return min(max(QUIET_S, 2 * longest), LONGEST_QUIET_S)


def _subfolders(folder: Path) -> list[str]:
    """Names of the folders in a folder, links to folders included, those to skip left out."""
    with os.scandir(folder) as entries:
        return sorted(e.name for e in entries if not e.name.lower().startswith(_SKIPPED) and _is_folder(e))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether an entry counts as a folder; a link that leads nowhere does, so that it is refused and not overlooked."""
    try:
        return entry.is_dir() or (entry.is_symlink() and not Path(entry.path).exists())
    except OSError:
        return True


def _judge_name(folders: list[Source]) -> Source:
    """Judge folders of one name by name and place."""
    first = folders[0]
    microscope = ", ".join(folder.kind for folder in folders)
    if first.reason:
        return first
    reason = refuse_experiment(first.name)
    if reason is None and len(folders) > 1:
        reason = f"the same name below {microscope}; rename one of the folders"
    if reason is None and first.kind not in READERS:
        reason = f"unknown microscope {first.kind!r} (known: {', '.join(READERS)})"
    return Source(first.name, microscope, first.path, reason or "")


def _walk(folder: Path, prefix: str) -> Iterator[_Entry]:
    """Yield the files below a folder; one that vanishes meanwhile (a copy's temporary name) is passed over."""
    with os.scandir(folder) as entries:
        for entry in entries:
            name = prefix + entry.name
            if entry.is_dir(follow_symlinks=False):
                yield from _walk(Path(entry.path), name + "/")
                continue
            try:
                status = entry.stat()
            except FileNotFoundError:
                if entry.is_symlink():
                    raise
                continue
            if stat.S_ISREG(status.st_mode):
                # A copy keeps the times of its files' contents; when they arrived here is told by the change time.
                yield _Entry(name, status.st_size, status.st_mtime_ns, status.st_ctime)


def _judge(folder: Source, *, entries: list[_Entry], now: float) -> _Judgement:
    if not entries:
        return _judge_empty(folder, now=now)
    visible = [entry.path for entry in entries if not entry.path.rpartition("/")[2].startswith(".")]
    reader = READERS[folder.kind]
    if reason := reader.refuse(visible):
        return _Judgement("refused", reason)
    named = _read_paths(folder.path / reader.table) if reader.table else None
    if reader.table and named is None:
        return _Judgement("refused", f"{reader.table} cannot be read as a table with the column path")
    return _judge_arrivals(entries, named=named, table=reader.table, now=now)


def _judge_empty(folder: Source, *, now: float) -> _Judgement:
    left = QUIET_S - (now - folder.path.stat().st_ctime)
    if left > 0:
        return _Judgement("acquiring", "no file yet")
    return _Judgement("refused", "the folder is empty")


def _judge_arrivals(entries: list[_Entry], *, named: frozenset[str] | None, table: str, now: float) -> _Judgement:
    """Judge whether the acquisition has ended (decisions, Sensor)."""
    for sentinel in SENTINELS:
        if any(entry.path == sentinel for entry in entries):
            return _Judgement("ready", f"{sentinel} is there")
    arrivals = sorted(entry.arrival for entry in entries)
    silence = now - arrivals[-1]
    absent = sorted(named - {entry.path for entry in entries}) if named is not None else []
    if named is not None and not absent:
        if silence >= SETTLE_S:
            return _Judgement("ready", f"all {len(named)} pictures of {table} are there")
        return _Judgement("acquiring", "the last picture is just arriving", SETTLE_S - max(silence, 0.0))
    wanted = needed_quiet(arrivals)
    remarks: tuple[str, ...] = ()
    if absent:
        more = f" and {len(absent) - 1} more" if len(absent) > 1 else ""
        remarks = (f"named in {table} but not there: {absent[0]}{more}",)
    if silence < wanted:
        return _Judgement("acquiring", f"files arrived {_span(silence)} ago", wanted - max(silence, 0.0), remarks)
    return _Judgement("ready", f"no new file for {_span(silence)}", None, remarks)


def _read_paths(table: Path) -> frozenset[str] | None:
    """Read the pictures that a table of frames names; None when it is no such table."""
    try:
        with table.open(encoding="utf-8-sig", newline="") as handle:
            reader = csv.DictReader(handle, skipinitialspace=True)
            if "path" not in [name.strip() for name in reader.fieldnames or ()]:
                return None
            reader.fieldnames = [name.strip() for name in reader.fieldnames or ()]
            paths = frozenset(str(row["path"]).strip() for row in reader if row.get("path"))
    except (UnicodeDecodeError, csv.Error):
        return None
    return paths or None


def _look_for_workbook(layout: Layout, experiment: str) -> tuple[Path | None, str]:
    try:
        match = find_workbook(workbook_folders(layout), experiment=experiment)
    except MorphseqError as error:
        missing = error.found.startswith("no workbook")
        return None, WORKBOOK_MISSING if missing else f"workbook ambiguous: {error.found}"
    except OSError as error:
        return None, f"workbook folder unreadable: {_say(error)}"
    return match.path, match.warning or ""


def _say(error: OSError) -> str:
    return f"{error.strerror or type(error).__name__} ({error.filename})" if error.filename else str(error)


def _span(seconds: float) -> str:
    """Length of time for people."""
    seconds = max(seconds, 0.0)
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"
