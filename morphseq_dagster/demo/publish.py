"""Publication of a demo plate: whole or not at all.

It is apart from the project's storage on purpose: a demo plate is input, made before any step runs.
"""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from morphseq_dagster.demo.truth import read_truth
from morphseq_dagster.errors import PermanentError


@dataclass(frozen=True)
class PlatePlaces:
    """Where a plate's raw folder, truth folder and workbook lie."""

    raw: Path
    truth: Path
    workbook: Path


def find_places(data_root: Path, *, source: str, experiment: str, truth_folder: Path) -> PlatePlaces:
    """Places of an experiment (spec, orchestration 1.1)."""
    return PlatePlaces(
        raw=data_root / "raw_image_data" / source / experiment,
        truth=truth_folder,
        workbook=data_root / "metadata" / "well_metadata" / f"{experiment}_well_metadata.xlsx",
    )


@contextmanager
def publish_plate(places: PlatePlaces, *, experiment: str, workbook: bytes) -> Iterator[PlatePlaces]:
    """Hand out temporary places for raw and truth; rename them when the body ends well, else remove them.

    The raw folder comes last, so an experiment appears complete or not at all. Truth and workbook without a raw
    folder are what a maker left that was killed between two renames: they are taken over when they belong to this
    plate and refused when they are somebody's own.

    Raises
    ------
    PermanentError
        When the raw folder is there, or a workbook or truth folder that is not this plate's.
    """
    _refuse_foreign(places, experiment=experiment, workbook=workbook)
    finals = (places.raw, places.truth, places.workbook)
    owner = f"{socket.gethostname()}-{os.getpid()}"
    for final in finals:
        final.parent.mkdir(parents=True, exist_ok=True)
        _clear_leftovers(final)
    raw, truth, book = (final.with_name(f".{final.name}.{owner}.tmp") for final in finals)
    try:
        raw.mkdir()
        truth.mkdir()
        yield PlatePlaces(raw, truth, book)
        book.write_bytes(workbook)
        book.replace(places.workbook)
        if places.truth.exists():
            shutil.rmtree(places.truth)
        truth.replace(places.truth)
        raw.replace(places.raw)
    finally:
        for part in (raw, truth, book):
            _remove(part)


def _refuse_foreign(places: PlatePlaces, *, experiment: str, workbook: bytes) -> None:
    foreign = []
    if places.raw.exists():
        foreign.append(f"a raw folder {places.raw}")
    if places.workbook.exists() and places.workbook.read_bytes() != workbook:
        foreign.append(f"another workbook {places.workbook}")
    if places.truth.exists() and not _is_truth_of(places.truth, experiment=experiment):
        foreign.append(f"a folder that is not this plate's truth, {places.truth}")
    if foreign:
        raise PermanentError(
            expected="room for a new demo plate",
            found="; ".join(foreign),
            where=f"experiment {experiment}",
            remedy="remove the earlier plate, or choose another experiment id and truth folder",
        )


def _is_truth_of(folder: Path, *, experiment: str) -> bool:
    if not folder.is_dir():
        return False
    if not any(folder.iterdir()):
        return True
    try:
        return read_truth(folder).experiment == experiment
    except PermanentError:
        return False


def _clear_leftovers(final: Path) -> None:
    """Remove temporaries of dead makers of this host; those of other hosts are left to their owners."""
    host = socket.gethostname()
    for part in sorted(final.parent.glob(f".{final.name}.{host}-*.tmp")):
        owner = part.name.removesuffix(".tmp").rpartition("-")[2]
        if owner.isdigit() and not _lives(int(owner)):
            _remove(part)


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
