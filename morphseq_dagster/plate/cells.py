"""Single cells of a workbook: text, numbers, blanks and error values.

Each conversion returns the value and, when the cell cannot be used, what was found in it.
"""

from __future__ import annotations

import datetime
import math
import re
from dataclasses import dataclass

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
