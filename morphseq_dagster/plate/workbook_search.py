"""Where the workbook of an experiment lies (spec 2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from morphseq_dagster.errors import PermanentError


@dataclass(frozen=True)
class WorkbookMatch:
    """The workbook that was found.

    Attributes
    ----------
    warning
        Why the choice deserves a look; None for the exact name.
    """

    path: Path
    warning: str | None


def find_workbook(folders: Sequence[Path], *, experiment: str) -> WorkbookMatch:
    """Find `{experiment}_well_metadata.xlsx`, or the only file of a similar name, with a warning.

    Parameters
    ----------
    folders
        Folders in order of preference: `metadata/well_metadata`, then `metadata/plate_metadata`. One that does not
        exist counts as empty.

    Raises
    ------
    PermanentError
        When there is none, or more than one tolerant match; all are named.
    """
    if not folders:
        raise ValueError("at least one folder is needed")
    stem = f"{experiment}_well_metadata"
    for folder in folders:
        exact = folder / f"{stem}.xlsx"
        if exact.is_file():
            return WorkbookMatch(exact, None)
    similar = sorted(
        path
        for folder in folders
        if folder.is_dir()
        for path in folder.iterdir()
        if path.name.startswith(stem) and path.suffix.lower() == ".xlsx" and path.is_file()
    )
    if len(similar) == 1:
        return WorkbookMatch(similar[0], f"{similar[0].name} is used for {experiment}; expected {stem}.xlsx")
    expected = folders[0] / f"{stem}.xlsx"
    raise PermanentError(
        expected=f"the workbook {expected}",
        found=", ".join(str(path) for path in similar) if similar else "no workbook of that name",
        where=", ".join(str(folder) for folder in folders),
        remedy=f"keep one of them as {expected.name}" if similar else f"save the plate's workbook as {expected}",
    )
