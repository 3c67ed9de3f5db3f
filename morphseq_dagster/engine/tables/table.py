"""Tables as contracts: columns with type, unit, range and nullability; checking, reading and writing of CSV.

The columns of each table are the workflow's (MorphSeq's: `morphseq/contracts`). Equal tables give equal bytes.
"""

from __future__ import annotations

import contextlib
import io
import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, Literal

from morphseq_dagster.errors import ContractError

if TYPE_CHECKING:
    import pandas as pd
    import pandera.pandas as pa

ColumnType = Literal["str", "int", "float", "bool"]

_PANDAS: Final[dict[ColumnType, str]] = {
    "str": "string",
    "int": "Int64",
    "float": "float64",
    "bool": "boolean",
}
_TRUE, _FALSE = ("True", "true", "1"), ("False", "false", "0")
_LISTED = 50
"""Violations listed in one error; beyond that the count is enough."""


@dataclass(frozen=True)
class Column:
    """One column of a table.

    Parameters
    ----------
    name, dtype
        Name as written and type as read; all types are nullable, see `nullable`.
    unit, description
        Unit (empty for none) and meaning, for documentation and column metadata.
    nullable
        Whether blank cells are allowed. Null means unknown or absent, never zero or False.
    minimum, maximum
        Inclusive range of the values.
    allowed
        The only values a text column may take.
    decimals
        Digits after the point on writing; None keeps the shortest exact form.
    """

    name: str
    dtype: ColumnType
    description: str = ""
    unit: str = ""
    nullable: bool = False
    minimum: float | None = None
    maximum: float | None = None
    allowed: tuple[str, ...] | None = None
    decimals: int | None = None


@dataclass(frozen=True)
class TableContract:
    """Columns of one table, in order.

    Parameters
    ----------
    name
        Logical name of the artifact.
    columns
        Columns in the order of writing.
    key
        Columns whose values identify a row.
    order
        Columns by which rows are sorted on writing.
    extra
        Whether further columns may follow the listed ones (carried through from a workbook, say).
    may_be_empty
        Whether a table without rows is valid.
    """

    name: str
    columns: tuple[Column, ...]
    key: tuple[str, ...]
    order: tuple[str, ...]
    extra: bool = False
    may_be_empty: bool = True

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the columns in order."""
        return tuple(column.name for column in self.columns)

    @cached_property
    def schema(self) -> pa.DataFrameSchema:
        """The contract as a pandera schema."""
        import pandera.pandas as pa

        columns = {}
        for column in self.columns:
            checks = []
            if column.minimum is not None:
                checks.append(pa.Check.ge(column.minimum))
            if column.maximum is not None:
                checks.append(pa.Check.le(column.maximum))
            if column.allowed is not None:
                checks.append(pa.Check.isin(list(column.allowed)))
            columns[column.name] = pa.Column(_PANDAS[column.dtype], checks, nullable=column.nullable, required=True)
        return pa.DataFrameSchema(columns, strict=not self.extra, unique=list(self.key) or None)

    def conform(self, frame: pd.DataFrame) -> pd.DataFrame:
        """Return a copy with the contract's types and column order, rows sorted; missing columns stay missing.

        A value that does not fit its type leaves the column as it is, for `check` to name.
        """
        import pandas as pd

        ordered = [n for n in self.names if n in frame.columns]
        rest = [n for n in frame.columns if n not in self.names]
        frame = frame[ordered + rest].copy()
        unique = set(frame.columns) - set(frame.columns[frame.columns.duplicated(keep=False)])
        for column in self.columns:
            if column.name not in unique:
                continue
            series = frame[column.name]
            try:
                if column.dtype == "float":
                    frame[column.name] = pd.to_numeric(series).astype("float64")
                else:
                    if series.dtype == object:  # a float NaN among whole numbers would make floats of them all
                        series = series.where(series.notna(), pd.NA)
                    dtype: Any = _PANDAS[column.dtype]
                    frame[column.name] = series.astype(dtype)
            except (ValueError, TypeError, OverflowError):
                continue
            if column.dtype == "str":
                frame[column.name] = _as_read_back(frame[column.name])
            if column.decimals is not None:
                frame[column.name] = frame[column.name].round(column.decimals)
        present = [n for n in self.order if n in unique]
        return frame.sort_values(present, kind="stable", ignore_index=True) if present else frame

    def check(self, frame: pd.DataFrame, *, where: str) -> None:
        """Check a table.

        Raises
        ------
        ContractError
            Naming every violation of the table at once.
        """
        from pandera.errors import SchemaErrors

        problems = []
        if frame.columns.has_duplicates:
            twice = sorted(set(frame.columns[frame.columns.duplicated()]))
            problems.append(f"columns appear twice: {', '.join(twice)}")
            frame = frame.loc[:, ~frame.columns.duplicated()]
        if not self.may_be_empty and frame.empty:
            problems.append("the table has no rows")
        try:
            self.schema.validate(frame, lazy=True)
        except SchemaErrors as error:
            problems += _tell(error.failure_cases)
        listed = [n for n in frame.columns if n in self.names]
        if listed != [n for n in self.names if n in frame.columns]:
            problems.append("columns are not in the order of the contract")
        if problems:
            more = f"; and {len(problems) - _LISTED} more" if len(problems) > _LISTED else ""
            raise ContractError(
                expected=f"a table that fulfils the contract of {self.name}",
                found=f"{len(problems)} problems: " + "; ".join(problems[:_LISTED]) + more,
                where=where,
                remedy="mend the named cells or the step that wrote them; the earlier version was left in place",
            )

    def encode(self, frame: pd.DataFrame, *, where: str) -> bytes:
        """Conform, check and serialise a table to CSV.

        Raises
        ------
        ContractError
            When the table breaks the contract.
        """
        frame = self.conform(frame)
        self.check(frame, where=where)
        buffer = io.StringIO()
        frame.to_csv(buffer, index=False, lineterminator="\n")
        return buffer.getvalue().encode()

    def decode(self, data: bytes, *, where: str) -> pd.DataFrame:
        """Parse CSV bytes to a checked table with the contract's types; numeric-looking ids stay text."""
        import pandas as pd

        types = {column.name: column.dtype for column in self.columns}
        try:
            frame = pd.read_csv(io.BytesIO(data), dtype=str, keep_default_na=False, na_values=[""])
        except (ValueError, UnicodeDecodeError) as error:
            raise ContractError(
                expected="a CSV table in UTF-8",
                found=str(error),
                where=where,
                remedy="restore the file or make it again",
            ) from error
        for name in frame.columns:
            match types.get(str(name)):
                case "bool":
                    frame[name] = frame[name].map(
                        lambda v: True if v in _TRUE else False if v in _FALSE else v, na_action="ignore"
                    )
                case "int":
                    with contextlib.suppress(ValueError):  # text stays text, for `check` to name
                        cells = [pd.NA if pd.isna(cell) else _to_whole(cell) for cell in frame[name]]
                        frame[name] = pd.Series(cells, index=frame.index, dtype=object)
                case "float":
                    with contextlib.suppress(ValueError):
                        frame[name] = frame[name].astype(object).map(float, na_action="ignore")
                case _:
                    pass
        frame = self.conform(frame)
        self.check(frame, where=where)
        return frame

    def empty(self) -> pd.DataFrame:
        """A table without rows."""
        import pandas as pd

        return pd.DataFrame({c.name: pd.Series(dtype=_PANDAS[c.dtype]) for c in self.columns})


def _as_read_back(series: pd.Series[str]) -> pd.Series[str]:
    """Text as a CSV file gives it back: a blank cell is null, and the one line end inside a cell is the newline."""
    import pandas as pd

    series = series.str.replace(r"\r\n?", "\n", regex=True)
    return series.mask(series == "", pd.NA)


def _to_whole(text: str) -> int | float:
    """Parse a whole number exactly; as a float it would lose its digits beyond 2^53."""
    try:
        return int(text)
    except ValueError:
        return float(text)


def _tell(cases: pd.DataFrame) -> list[str]:
    """One line per violated rule and column, with the first rows concerned."""
    lines = []
    for (column, check), group in cases.groupby(["column", "check"], sort=True, dropna=False):
        rows = [int(i) for i in group["index"] if isinstance(i, int | float) and not math.isnan(i)]
        values = ", ".join(sorted({repr(v) for v in group["failure_case"]})[:5])
        place = f" in rows {', '.join(str(r) for r in rows[:5])}" if rows else ""
        name = column if isinstance(column, str) else "table"
        if check == "column_in_dataframe":
            lines += [f"column {value} is missing" for value in group["failure_case"]]
        elif check == "column_in_schema":
            lines += [f"column {value} is not part of the contract" for value in group["failure_case"]]
        else:
            lines.append(f"{name}: {check} fails{place} ({values})")
    return lines
