"""The plate workbook: where it lies, and its 8 x 12 sheets, one per variable, as one row per well.

Cells that cannot be used become null and a named problem; nothing is guessed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar

from morphseq_dagster.errors import PermanentError
from morphseq_dagster.plate.sheets import (
    WELLS,
    Cell,
    CellProblem,
    as_number,
    as_number_or_text,
    as_stored,
    as_text,
    read_sheets,
)

if TYPE_CHECKING:
    import pandas as pd

TEXT_SHEETS = ("medium", "genotype", "chem_perturbation", "pair")
NUMBER_SHEETS = ("embryos_per_well", "temperature")
AGE_SHEET = "start_age_hpf"
KNOWN_SHEETS = ("medium", "genotype", "chem_perturbation", AGE_SHEET, "embryos_per_well", "temperature", "pair")
_Value = TypeVar("_Value")
# Columns of the table that no sheet may take.
_RESERVED = frozenset({"well", "start_age_label", "temperature_source"})


@dataclass(frozen=True)
class PlateWell:
    """What the workbook says about one well, temperatures in degrees Celsius; None is blank or unusable.

    Attributes
    ----------
    start_age_hpf
        Age at the first frame in hours post fertilisation.
    start_age_label
        Text of the age cell when it is no number (some labs write an identifier).
    temperature_source
        "workbook" or None; the recipe's default is filled in by the step `built_metadata`.
    extra
        (sheet, value) of every further 8 x 12 sheet, in the order of the workbook.
    """

    well: str
    medium: str | None = None
    genotype: str | None = None
    chem_perturbation: str | None = None
    start_age_hpf: float | None = None
    start_age_label: str | None = None
    embryos_per_well: float | None = None
    temperature: float | None = None
    temperature_source: Literal["workbook"] | None = None
    pair: str | None = None
    extra: tuple[tuple[str, str | float | None], ...] = ()


@dataclass(frozen=True)
class PlateTable:
    """One plate: a row for each of 96 wells, A01, A02, ... H12, and the cells and sheets that could not be used.

    Attributes
    ----------
    missing_sheets
        Known sheets that the workbook lacks; their columns are null.
    ignored_sheets
        Sheets that are no 8 x 12 grid of wells.
    """

    rows: tuple[PlateWell, ...]
    missing_sheets: tuple[str, ...]
    ignored_sheets: tuple[str, ...]
    problems: tuple[CellProblem, ...]

    @property
    def extra_sheets(self) -> tuple[str, ...]:
        """Names of the further sheets that were carried through."""
        return tuple(name for name, _ in self.rows[0].extra)

    def to_frame(self) -> pd.DataFrame:
        """Table of 96 rows: well, the known columns, temperature_source, start_age_label, then further sheets.

        Text columns are nullable strings and number columns float64, so that an all-blank sheet keeps its type. A
        further sheet is numeric when all its values are numbers, else text.
        """
        import pandas as pd  # the search for a workbook, which every command makes, needs none of it

        columns: dict[str, pd.Series] = {"well": pd.Series(list(WELLS), dtype="string")}
        for name in (*KNOWN_SHEETS, "temperature_source", "start_age_label"):
            kind = "float64" if name in NUMBER_SHEETS or name == AGE_SHEET else "string"
            columns[name] = pd.Series([getattr(row, name) for row in self.rows], dtype=kind)
        for i, name in enumerate(self.extra_sheets):
            values = [row.extra[i][1] for row in self.rows]
            numeric = any(v is not None for v in values) and not any(isinstance(v, str) for v in values)
            texts = [None if v is None else v if isinstance(v, str) else f"{v:g}" for v in values]
            columns[name] = pd.Series(values, dtype="float64") if numeric else pd.Series(texts, dtype="string")
        return pd.DataFrame(columns)


def read_plate_workbook(path: Path) -> PlateTable:
    """Read a plate workbook (spec 2).

    It is an .xlsx file whose sheets are grids: row 1 holds 1..12, column A holds A..H.

    Raises
    ------
    PermanentError
        When the file is missing or is no workbook.
    """
    sheets, doubtful, ignored = read_sheets(path)
    problems = list(doubtful)
    for name in sorted(_RESERVED & sheets.keys()):
        problems.append(CellProblem(name, None, f"a sheet name other than {name!r}", "rename the sheet"))
        del sheets[name]
    empty = dict.fromkeys(WELLS, Cell(None, ""))
    texts = {s: _column(s, sheets.get(s, empty), as_text, problems) for s in TEXT_SHEETS}
    numbers = {s: _column(s, sheets.get(s, empty), as_number, problems) for s in NUMBER_SHEETS}
    ages = _column(AGE_SHEET, sheets.get(AGE_SHEET, empty), as_number_or_text, problems)
    further = {s: _column(s, grid, as_stored, problems) for s, grid in sheets.items() if s not in KNOWN_SHEETS}
    rows = []
    for well in WELLS:
        age, temperature = ages[well], numbers["temperature"][well]
        rows.append(
            PlateWell(
                well=well,
                medium=texts["medium"][well],
                genotype=texts["genotype"][well],
                chem_perturbation=texts["chem_perturbation"][well],
                start_age_hpf=age if isinstance(age, float) else None,
                start_age_label=age if isinstance(age, str) else None,
                embryos_per_well=numbers["embryos_per_well"][well],
                temperature=temperature,
                temperature_source=None if temperature is None else "workbook",
                pair=texts["pair"][well],
                extra=tuple((name, column[well]) for name, column in further.items()),
            )
        )
    named = {problem.sheet for problem in problems}
    missing = tuple(name for name in KNOWN_SHEETS if name not in sheets and name not in named)
    return PlateTable(tuple(rows), missing, ignored, tuple(problems))


def _column(
    sheet: str,
    grid: Mapping[str, Cell],
    convert: Callable[[Cell], tuple[_Value, str | None]],
    problems: list[CellProblem],
) -> dict[str, _Value]:
    """Convert all cells of a sheet; a cell that cannot be used is null and named."""
    column: dict[str, _Value] = {}
    for well in WELLS:
        cell = grid[well]
        column[well], found = convert(cell)
        if found is not None:
            problems.append(CellProblem(sheet, cell.address, found, "correct the cell in the workbook"))
    return column


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
