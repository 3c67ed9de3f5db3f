"""Commit: publish a staged artifact with its record as one unit, and finish what a crash interrupted.

Order: record staged, journal written, units renamed (the one with the primary file last), record renamed, journal
removed. A crash before the journal leaves temporaries for `sweep`; after it, the next writer rolls forward to the end.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from morphseq_dagster.engine.layout import Layout
from morphseq_dagster.engine.storage.atomic_io import (
    remove_folder,
    replace_file,
    replace_folder,
    stage_file,
    sync_folder,
    write_durably,
    write_file,
)
from morphseq_dagster.engine.storage.records import Record, clear_failure, encode, read_record
from morphseq_dagster.engine.storage.staging import Staged, StagedUnit
from morphseq_dagster.errors import PermanentError


class Move(BaseModel):
    """One rename of a publication; the inode shows after a crash whether it took place."""

    model_config = ConfigDict(frozen=True)

    temporary: str
    target: str
    kind: Literal["file", "folder"]
    inode: int


class Journal(BaseModel):
    """Renames of a publication that has begun."""

    model_config = ConfigDict(frozen=True)

    step: str
    experiment: str
    primary: str
    moves: tuple[Move, ...]


def commit(layout: Layout, *, staged: Staged, record: Record) -> Record:
    """Publish a staged artifact with its record.

    Raises
    ------
    OSError
        When the disk refuses. Before the journal everything staged is removed and the old version stands; after it
        the publication is finished by the next writer.
    """
    units = list(staged.units)
    journal_path = layout.journal(record.step, experiment=record.experiment)
    record_path = layout.record(staged.primary)
    try:
        if units[-1].kind == "folder":
            # Inside the exchanged folder the record needs no rename of its own.
            folder = units[-1]
            write_file(folder.temporary / record_path.relative_to(folder.target), encode(record))
            sync_folder(folder.temporary)
        else:
            units.append(StagedUnit(stage_file(record_path, encode(record)), record_path, "file"))
        journal = Journal(
            step=record.step,
            experiment=record.experiment,
            primary=layout.relative(staged.primary),
            moves=tuple(_plan(layout, unit) for unit in units),
        )
        write_durably(journal_path, encode(journal))
    except BaseException:
        if not journal_path.exists():
            for unit in units:
                _remove(unit)
        raise
    _publish(layout, journal)
    return record


def roll_forward(layout: Layout, *, step: str, experiment: str) -> Record | None:
    """Finish a publication that a crash interrupted; return its record, or None when there was none.

    Only the holder of the step's lock may call this.
    """
    journal = read_journal(layout.journal(step, experiment=experiment))
    if journal is None:
        return None
    _publish(layout, journal)
    return read_record(layout, primary=layout.absolute(journal.primary))


def read_journal(path: Path) -> Journal | None:
    """Read a journal; None when no publication is pending there."""
    try:
        return Journal.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValidationError as error:
        raise PermanentError(
            expected="a journal of a publication",
            found=str(error.errors()[0]["msg"]),
            where=str(path),
            remedy="remove the file; the step then runs again",
        ) from error


def is_interrupted(layout: Layout, *, step: str, experiment: str) -> bool:
    """Whether a publication has begun and not ended (or is under way right now)."""
    return layout.journal(step, experiment=experiment).exists()


def _publish(layout: Layout, journal: Journal) -> None:
    for move in journal.moves:
        _move(layout, move)
    clear_failure(layout, primary=layout.absolute(journal.primary))
    path = layout.journal(journal.step, experiment=journal.experiment)
    path.unlink(missing_ok=True)
    with contextlib.suppress(FileNotFoundError):
        sync_folder(path.parent)


def _move(layout: Layout, move: Move) -> None:
    """Do one rename unless it was done; a temporary that vanished was swept or renamed by an earlier try."""
    temporary, target = layout.absolute(move.temporary), layout.absolute(move.target)
    if _inode(target) == move.inode:
        if move.kind == "folder":
            remove_folder(temporary)  # after an exchange it holds the old version
        return
    if _inode(temporary) != move.inode:
        return
    if move.kind == "file":
        replace_file(target, temporary=temporary)
    else:
        replace_folder(target, temporary=temporary)


def _plan(layout: Layout, unit: StagedUnit) -> Move:
    return Move(
        temporary=layout.relative(unit.temporary),
        target=layout.relative(unit.target),
        kind=unit.kind,
        inode=unit.temporary.stat().st_ino,
    )


def _remove(unit: StagedUnit) -> None:
    if unit.kind == "file":
        unit.temporary.unlink(missing_ok=True)
    else:
        remove_folder(unit.temporary)


def _inode(path: Path) -> int:
    try:
        return path.stat().st_ino
    except FileNotFoundError:
        return -1
