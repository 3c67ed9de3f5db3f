"""Sheets and cells of a workbook: grids of 8 rows and 12 columns, located by their headings.

Each conversion of a cell returns the value and, when the cell cannot be used, what was found in it.
"""

from __future__ import annotations

import datetime
import io
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from morphseq_dagster.errors import PermanentError

_NULL_TEXTS = frozenset({"", "nan"})
_NULL_NUMBER_TEXTS = frozenset({"na", "n/a"})
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?", re.ASCII)


@dataclass(frozen=True)
class Cell:
    """One cell.

    Attributes
    ----------
    value
        As the workbook stores it; None is blank.
    fault
        Why the stored value must not be used (an error value, a formula without a result); None when it may.
    """

    value: str | float | int | bool | datetime.datetime | datetime.date | datetime.time | datetime.timedelta | None
    address: str
    fault: str | None = None


@dataclass(frozen=True)
class CellProblem:
    """What could not be used and why.

    Attributes
    ----------
    sheet, cell
        Place; `cell` is None when the whole sheet is meant.
    """

    sheet: str
    cell: str | None
    found: str
    remedy: str

    def __str__(self) -> str:
        place = f"sheet {self.sheet!r}" + (f" cell {self.cell}" if self.cell else "")
        return f"{place}: {self.found}. Remedy: {self.remedy}"


def as_stored(cell: Cell) -> tuple[str | float | None, str | None]:
    """Number or text as the cell stores it; blank and "nan" are null."""
    value = cell.value
    fault = cell.fault
    result: str | float | None = None
    if isinstance(value, str):
        text = value.strip()
        result = None if text.casefold() in _NULL_TEXTS else text
    elif isinstance(value, bool):
        result = str(value)
    elif isinstance(value, int | float):
        result = float(value)
        if not math.isfinite(result):
            fault = fault or f"the number {value}"
    elif value is not None:
        # Spreadsheets turn entries such as 1-2 into dates; what was meant cannot be known.
        fault = fault or f"the date or time {value}"
    return (result, None) if fault is None else (None, fault)


def as_text(cell: Cell) -> tuple[str | None, str | None]:
    """Text of a cell, kept as written; whole numbers are written without a fraction."""
    value, found = as_stored(cell)
    if isinstance(value, float):
        return (str(int(value)) if value.is_integer() and abs(value) < 1e15 else repr(value)), None
    return value, found


def as_number_or_text(cell: Cell) -> tuple[str | float | None, str | None]:
    """Number where the cell holds one, also written as text; else its text."""
    value, found = as_stored(cell)
    if isinstance(value, str) and _NUMBER.fullmatch(value) and math.isfinite(float(value)):
        return float(value), None
    return value, found


def as_number(cell: Cell) -> tuple[float | None, str | None]:
    """Number of a cell; text that reads as a number counts, "NA" and "n/a" are null like a blank."""
    value, found = as_number_or_text(cell)
    if not isinstance(value, str):
        return value, found
    return (None, None) if value.casefold() in _NULL_NUMBER_TEXTS else (None, f"text {value!r} where a number belongs")


ROWS = "ABCDEFGH"
COLUMNS = tuple(range(1, 13))
WELLS = tuple(f"{row}{column:02d}" for row in ROWS for column in COLUMNS)
"""Wells of a plate row by row: A01, A02, ... H12 (spec 2)."""

Grid = dict[str, Cell]


def read_sheets(path: Path) -> tuple[dict[str, Grid], tuple[CellProblem, ...], tuple[str, ...]]:
    """Read every grid of a workbook.

    Returns
    -------
    sheets
        Sheet name (trimmed, lower case) to a cell per well. A sheet with headings in doubt is left out.
    problems
        Sheets with headings in doubt or of the same name.
    ignored
        Sheets that are no grid of wells.

    Raises
    ------
    PermanentError
        When the file is missing, cannot be read or is no workbook.
    """
    try:
        data = path.read_bytes()
    except (FileNotFoundError, IsADirectoryError, PermissionError) as error:
        raise _refuse(path, error.strerror or str(error)) from error
    values, formulas = _open(data, path=path, results=True), _open(data, path=path, results=False)
    sheets: dict[str, Grid] = {}
    problems: list[CellProblem] = []
    ignored: list[str] = []
    for title in values:
        name = title.strip().lower()
        grid, faults = _read_grid(values[title], formulas[title])
        if grid is None and not faults:
            ignored.append(title)
        elif faults:
            problems += [
                CellProblem(name, cell, found, "label row 1 with 1..12, column A with A..H") for cell, found in faults
            ]
        elif grid is not None and name in sheets:
            problems.append(CellProblem(name, None, "a second sheet of this name", "remove or rename one of them"))
        elif grid is not None:
            sheets[name] = grid
    return sheets, tuple(problems), tuple(ignored)


# The stored value of a cell and its type letter ("e" is an error value, "f" a formula).
_Raw = tuple[Any, str]


def _open(data: bytes, *, path: Path, results: bool) -> dict[str, list[list[_Raw]]]:
    """First 9 rows and 13 columns of every sheet, either results of formulas or the formulas themselves."""
    import openpyxl  # brings numpy, which the search for a workbook need not wait for

    try:
        book = openpyxl.load_workbook(io.BytesIO(data), read_only=True, data_only=results)
        try:
            return {sheet.title: _corner(sheet) for sheet in book.worksheets}
        finally:
            book.close()
    # openpyxl raises whatever zip, XML or its own classes meet in a broken file; the cause is kept.
    except Exception as error:
        raise _refuse(path, f"a file that cannot be read as a workbook ({type(error).__name__}: {error})") from error


def _corner(sheet: Any) -> list[list[_Raw]]:  # noqa: ANN401 - openpyxl ships no types
    rows = sheet.iter_rows(min_row=1, max_row=len(ROWS) + 1, min_col=1, max_col=len(COLUMNS) + 1)
    corner = [[(cell.value, str(cell.data_type)) for cell in row] for row in rows]
    width = len(COLUMNS) + 1
    # Sheets store no empty rows or cells at their end.
    corner = [row + [(None, "n")] * (width - len(row)) for row in corner]
    return corner + [[(None, "n")] * width for _ in range(len(ROWS) + 1 - len(corner))]


def _read_grid(
    values: list[list[_Raw]], formulas: list[list[_Raw]]
) -> tuple[Grid | None, list[tuple[str | None, str]]]:
    """Cells per well; None without faults means that the sheet is no grid of wells at all."""
    columns = [_column_number(value) for value, _ in values[0][1:]]
    rows = [_row_letter(line[0][0]) for line in values[1:]]
    labelled = sum(label is not None for label in (*columns, *rows))
    if labelled < (len(COLUMNS) + len(ROWS)) // 2:
        empty = all(value is None for line in values for value, _ in line)
        half = labelled > 0 and not empty
        return None, [(None, "headings of rows or columns that are missing or wrong")] if half else []
    faults: list[tuple[str | None, str]] = []
    for i, (label, (value, _)) in enumerate(zip(columns, values[0][1:], strict=True)):
        if label is None:
            faults.append((_address(0, i + 1), f"column heading {value!r}"))
        elif label in columns[:i]:
            faults.append((_address(0, i + 1), f"column heading {label} a second time"))
    for i, (letter, line) in enumerate(zip(rows, values[1:], strict=True)):
        if letter is None:
            faults.append((_address(i + 1, 0), f"row heading {line[0][0]!r}"))
        elif letter in rows[:i]:
            faults.append((_address(i + 1, 0), f"row heading {letter} a second time"))
    if faults:
        return None, faults
    grid: Grid = {}
    for i, letter in enumerate(rows):
        for j, number in enumerate(columns):
            raw, formula = values[i + 1][j + 1], formulas[i + 1][j + 1]
            grid[f"{letter}{number:02d}"] = _cell(raw, formula, address=_address(i + 1, j + 1))
    return {well: grid[well] for well in WELLS}, []


def _cell(raw: _Raw, formula: _Raw, *, address: str) -> Cell:
    value, kind = raw
    if kind == "e":
        return Cell(None, address, f"the error value {value}")
    if value is None and formula[1] == "f":
        return Cell(
            None,
            address,
            f"a formula that was never calculated ({formula[0]})",
        )
    return Cell(value, address)


def _column_number(value: object) -> int | None:
    """1..12 from 1, 1.0, "1", "01"; None for anything else."""
    text = str(int(value)) if isinstance(value, float) and value.is_integer() else str(value).strip()
    return int(text) if text.isascii() and text.isdigit() and int(text) in COLUMNS else None


def _row_letter(value: object) -> str | None:
    text = str(value).strip().upper()
    return text if len(text) == 1 and text in ROWS else None


def _address(row: int, column: int) -> str:
    return f"{'ABCDEFGHIJKLM'[column]}{row + 1}"


def _refuse(path: Path, found: str) -> PermanentError:
    return PermanentError(
        expected="an .xlsx workbook with one 8 x 12 sheet per variable",
        found=found,
        where=str(path),
        remedy="save the workbook again as .xlsx in its place",
    )
