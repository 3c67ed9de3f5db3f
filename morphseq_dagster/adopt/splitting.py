"""Splitting: a file that holds all experiments, cut into one piece per experiment in one pass over the file.

JSON is read by events and CSV by rows, so that memory does not grow with the file. Pieces keep the older form; they are
working files below `.morphseq/adopt/` and are made once per file.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import ijson
from ijson.common import ObjectBuilder
from pydantic import BaseModel, ConfigDict

from morphseq_dagster.engine.layout import Layout
from morphseq_dagster.engine.storage.atomic_io import make_folder, remove_folder, write_durably
from morphseq_dagster.engine.storage.hashing import hash_json
from morphseq_dagster.engine.storage.records import encode
from morphseq_dagster.errors import MorphseqError, PermanentError
from morphseq_dagster.identifiers import parse_image, parse_snip, refuse_experiment

_ANY: Final = "*"
_HEADER: Final = ""
_OPEN_FILES: Final = 48
_BUFFER: Final = 1 << 16
_REFUSED: Final = 100
"""Names listed of entries that belong to no experiment."""
_START, _END = ("start_map", "start_array"), ("end_map", "end_array")

Path_ = tuple[str, ...]


class Split(BaseModel):
    """What one pass over a file found.

    `entries` counts entries or rows by experiment; `refused` names entries that belong to no experiment.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: str
    sha256: str
    entries: dict[str, int]
    refused: tuple[str, ...] = ()
    refused_count: int = 0


@dataclass(frozen=True)
class Rule:
    """Which entries of a JSON file are taken, and whose they are.

    Parameters
    ----------
    pattern
        Keys from the top; `*` stands for any.
    owner
        Key to experiment; None for entries that every piece needs.
    """

    pattern: Path_
    owner: Callable[[Path_], str] | None = None


def _by_image(path: Path_) -> str:
    return parse_image(path[-1]).experiment_id


def _by_snip(path: Path_) -> str:
    return parse_snip(path[-1]).experiment_id


def _by_second(path: Path_) -> str:
    return path[1]


_QUALITY: Final = "high_quality_annotations"
JSON_RULES: Final[Mapping[str, tuple[Rule, ...]]] = {
    "detections": (
        Rule(("images", _ANY), _by_image),
        Rule((_QUALITY, _ANY, "filtered", _ANY), _by_second),
        *(Rule((_QUALITY, _ANY, name), _by_second) for name in ("prompt", "confidence_threshold", "iou_threshold")),
    ),
    "segmentations": (
        Rule(("experiments", _ANY, "videos", _ANY), _by_second),
        Rule(("flags", "by_snip", _ANY), _by_snip),
        Rule(("flags", "by_image", _ANY), _by_image),
        *(Rule((name,)) for name in ("gsam_id", "target_prompt", "segmentation_format", "seed_annotations_path")),
        *(Rule((name,)) for name in ("experiment_metadata_path", "device")),
    ),
    "experiment_metadata": (Rule(("experiments", _ANY, "videos", _ANY), _by_second),),
}
"""Entries taken of each kind of file; whatever else a file holds (lists of all ids, histories) is passed over."""


def split_json(source: Path, *, kind: str, folder: Path) -> Split:
    """Cut a JSON file into `{folder}/{exp}.jsonl`, one line `[keys, value]` per entry.

    Raises
    ------
    PermanentError
        When the file is no JSON or is cut off.
    """
    entries: dict[str, int] = {}
    refused: list[str] = []
    count = 0
    with source.open("rb") as raw, _Pieces(folder, suffix=".jsonl") as pieces:
        reader = _HashingReader(raw)
        try:
            for path, rule, value in iter_entries(reader, rules=JSON_RULES[kind]):
                owner = _HEADER if rule.owner is None else _owner(rule, path)
                if owner is None:
                    count += 1
                    refused += ["/".join(path)] if len(refused) < _REFUSED else []
                    continue
                pieces.write(owner, json.dumps([list(path), value], separators=(",", ":")) + "\n")
                if owner != _HEADER:
                    entries[owner] = entries.get(owner, 0) + 1
        except ijson.JSONError as error:
            raise PermanentError(
                expected="a JSON file", found=str(error), where=str(source), remedy="restore the file, it is damaged"
            ) from error
        digest = reader.finish()
    return Split(
        source=str(source),
        sha256=digest,
        entries=dict(sorted(entries.items())),
        refused=tuple(refused),
        refused_count=count,
    )


def split_csv(source: Path, *, folder: Path) -> Split:
    """Cut a table into `{folder}/{exp}.csv` by its column of experiments, or by its snip ids, row by row.

    Raises
    ------
    PermanentError
        When no column tells the experiment.
    """
    entries: dict[str, int] = {}
    refused: list[str] = []
    count = 0
    with source.open("rb") as raw, _Pieces(folder, suffix=".csv") as pieces:
        reader = _HashingReader(raw)
        text = io.TextIOWrapper(io.BufferedReader(reader, _BUFFER), encoding="utf-8-sig", newline="")
        rows = csv.reader(text)
        header = next(rows, [])
        column = next((header.index(n) for n in ("experiment_id", "experiment_date", "snip_id") if n in header), None)
        if column is None:
            raise PermanentError(
                expected="a column experiment_id, experiment_date or snip_id",
                found=f"columns {', '.join(header[:20])}",
                where=str(source),
                remedy="bring the tables of the experiments one by one",
            )
        for row in rows:
            if not row:
                continue
            try:
                cell = row[column]
                owner = parse_snip(cell).experiment_id if header[column] == "snip_id" else cell
                bad = len(row) != len(header) or refuse_experiment(owner) is not None
            except (MorphseqError, IndexError):
                bad, owner = True, ""
            if bad:
                count += 1
                refused += [f"line {rows.line_num}"] if len(refused) < _REFUSED else []
                continue
            if owner not in entries:
                pieces.write(owner, _csv_line(header))
            pieces.write(owner, _csv_line(row))
            entries[owner] = entries.get(owner, 0) + 1
        digest = reader.finish()
    return Split(
        source=str(source),
        sha256=digest,
        entries=dict(sorted(entries.items())),
        refused=tuple(refused),
        refused_count=count,
    )


def split_once(layout: Layout, source: Path, *, kind: str) -> tuple[Split, Path]:
    """Split a file unless its pieces are there already; return what was found and the folder of the pieces."""
    status = source.stat()
    folder = layout.split_monoliths(hash_json([str(source), status.st_size, status.st_mtime_ns, kind])[:16])
    done = folder / "split.json"
    if done.exists():
        return Split.model_validate_json(done.read_bytes()), folder
    remove_folder(folder)
    make_folder(folder)
    split = split_csv(source, folder=folder) if kind == "table" else split_json(source, kind=kind, folder=folder)
    write_durably(done, encode(split))
    return split, folder


def read_piece(folder: Path, *, experiment: str) -> dict[str, Any]:
    """Put the entries of one experiment together again, nested as they were."""
    document: dict[str, Any] = {}
    for name in (_HEADER, experiment):
        path = folder / f"{name}.jsonl"
        if not path.exists():
            continue
        with path.open(encoding="utf-8") as lines:
            for line in lines:
                keys, value = json.loads(line)
                place = document
                for key in keys[:-1]:
                    place = place.setdefault(key, {})
                place[keys[-1]] = value
    return document


def iter_entries(handle: Any, *, rules: tuple[Rule, ...]) -> Iterator[tuple[Path_, Rule, Any]]:  # noqa: ANN401
    """Yield the entries of a JSON file that a rule takes, each built alone; everything else is passed over."""
    path: list[str] = []
    kinds: list[bool] = []  # whether each open container is an object
    building: tuple[ObjectBuilder, Rule, int] | None = None
    for event, value in ijson.basic_parse(handle, use_float=True):
        if building is not None:
            builder, taken, depth = building
            builder.event(event, value)
            depth += (event in _START) - (event in _END)
            building = (builder, taken, depth)
            if depth == 0:
                yield tuple(path), taken, builder.value
                building = None
                path.pop()
            continue
        if event == "map_key":
            path.append(value)
            continue
        rule = _match(path, rules=rules) if kinds and kinds[-1] else None
        if event in _END:
            kinds.pop()
            _leave(path, kinds)
        elif rule is not None and event in _START:
            builder = ObjectBuilder()
            builder.event(event, value)
            building = (builder, rule, 1)
        elif event in _START:
            kinds.append(event == "start_map")
        else:
            if rule is not None:
                yield tuple(path), rule, value
            _leave(path, kinds)


def _leave(path: list[str], kinds: list[bool]) -> None:
    """Drop the key of a value that has ended, if its container is an object."""
    if kinds and kinds[-1]:
        path.pop()


def _match(path: list[str], *, rules: tuple[Rule, ...]) -> Rule | None:
    for rule in rules:
        if len(rule.pattern) == len(path) and all(w in (_ANY, k) for w, k in zip(rule.pattern, path, strict=True)):
            return rule
    return None


def _owner(rule: Rule, path: Path_) -> str | None:
    """Experiment of an entry; None when its key names none."""
    if rule.owner is None:
        return _HEADER
    try:
        experiment = rule.owner(path)
    except MorphseqError:
        return None
    return experiment if refuse_experiment(experiment) is None else None


def _csv_line(cells: list[str]) -> str:
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue()


class _Pieces:
    """Files of the pieces, of which only a few are open at once."""

    def __init__(self, folder: Path, *, suffix: str) -> None:
        self._folder = folder
        self._suffix = suffix
        self._open: OrderedDict[str, io.TextIOWrapper] = OrderedDict()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._open.values():
            handle.close()

    def write(self, owner: str, text: str) -> None:
        handle = self._open.pop(owner, None)
        if handle is None:
            if len(self._open) >= _OPEN_FILES:
                self._open.popitem(last=False)[1].close()
            path = self._folder / f"{owner}{self._suffix}"
            handle = path.open("a", encoding="utf-8", newline="\n")
        self._open[owner] = handle
        handle.write(text)


class _HashingReader(io.RawIOBase):
    """A file that is hashed while it is read, so that terabytes are read once."""

    def __init__(self, handle: io.BufferedReader) -> None:
        super().__init__()
        self._handle = handle
        self._digest = hashlib.sha256()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:  # noqa: ANN401 - any writable buffer
        data = self._handle.read(len(buffer))
        buffer[: len(data)] = data
        self._digest.update(data)
        return len(data)

    def finish(self) -> str:
        """Hash of the whole file, the unread rest included."""
        while data := self._handle.read(1 << 20):
            self._digest.update(data)
        return self._digest.hexdigest()
