"""Columns that a rule over embryos needs."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from morphseq_dagster.errors import ContractError


def require_columns(table: pd.DataFrame, names: Sequence[str], *, where: str = "embryo table") -> None:
    """Refuse a table that lacks columns.

    Raises
    ------
    ContractError
        Naming all that are missing.
    """
    missing = [name for name in names if name not in table.columns]
    if missing:
        raise ContractError(
            expected=f"columns {', '.join(names)}",
            found=f"no {', '.join(missing)}",
            where=where,
            remedy=f"build the {where} with these columns",
        )
