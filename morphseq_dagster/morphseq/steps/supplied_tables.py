"""Tables that people and labs supply as CSV: read whole, or refused by the name of the file.

What a table means is checked where it is used, and `naming_file` gives such an error its file.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from morphseq_dagster.errors import ContractError

if TYPE_CHECKING:
    import pandas as pd


def read_supplied_table(path: Path, *, as_text: bool = False) -> pd.DataFrame:
    """Read a comma-separated table with a heading.

    Parameters
    ----------
    path
        The file.
    as_text
        Keep every cell as it is written, blanks as empty text; else numbers become numbers and blanks null.

    Raises
    ------
    ContractError
        When the file holds no such table.
    """
    import pandas as pd

    options: dict[str, Any] = {"dtype": str, "keep_default_na": False} if as_text else {}
    try:
        with warnings.catch_warnings():
            # Lines with more cells than the heading would lose them, or shift all columns.
            warnings.simplefilter("error", pd.errors.ParserWarning)
            table: pd.DataFrame = pd.read_csv(path, index_col=False, encoding="utf-8-sig", **options)
    except (ValueError, pd.errors.ParserWarning) as error:  # also text that is not UTF-8
        raise ContractError(
            expected="a comma-separated table in UTF-8 with a heading",
            found=str(error).strip(),
            where=str(path),
            remedy="save the table again as comma-separated UTF-8",
        ) from error
    return table


@contextmanager
def naming_file(path: Path) -> Iterator[None]:
    """Name the file in errors of whoever interprets its table, and make an error of a cell that is no number.

    Raises
    ------
    ContractError
        In place of the caller's `ContractError` or `ValueError`.
    """
    try:
        yield
    except ContractError as error:
        raise ContractError(
            expected=error.expected, found=error.found, where=f"{path} ({error.where})", remedy=error.remedy
        ) from error
    except ValueError as error:
        raise ContractError(
            expected="numbers in the columns of numbers",
            found=str(error),
            where=str(path),
            remedy="correct the cells; unknown is a blank",
        ) from error
