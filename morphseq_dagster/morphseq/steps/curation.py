"""Curation: overrides by hand, `metadata/curation/{exp}_overrides.csv`, applied to flags of the embryo table.

One row per override: `snip_id` or `embryo_id`, `column`, `value` (true, false or blank for unknown), `reason`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from morphseq_dagster.errors import ContractError
from morphseq_dagster.morphseq.steps.supplied_tables import read_supplied_table

_COLUMNS = ("snip_id", "embryo_id", "column", "value", "reason")
_VALUES = {"true": True, "false": False, "": None}


def apply_overrides(table: pd.DataFrame, *, path: Path | None, flags: Sequence[str]) -> pd.DataFrame:
    """Apply the overrides of a file; without one the column `curated` is null.

    Parameters
    ----------
    table
        Embryo table with `snip_id`, `embryo_id`, the flags and a `{flag}_reason` each; not modified.
    path
        File of overrides, or None.
    flags
        Columns that may be overridden.

    Raises
    ------
    ContractError
        Naming every line that cannot be applied.
    """
    table = table.assign(curated=pd.Series(pd.NA, index=table.index, dtype="string"))
    if path is None:
        return table
    overrides = read_supplied_table(path, as_text=True)
    problems = [f"column {name} is missing" for name in ("column", "value", "reason") if name not in overrides]
    problems += [f"column {name} is unknown" for name in overrides.columns if name not in _COLUMNS]
    if not problems:
        for number, row in enumerate(overrides.to_dict("records"), start=2):
            problem = _apply(table, {str(k): str(v).strip() for k, v in row.items()}, flags=flags)
            problems += [f"line {number}: {problem}"] if problem else []
    if problems:
        raise ContractError(
            expected=f"lines of {', '.join(_COLUMNS)} that name rows and flags of the table",
            found="; ".join(problems),
            where=str(path),
            remedy="correct the named lines",
        )
    return table


def _apply(table: pd.DataFrame, row: dict[str, str], *, flags: Sequence[str]) -> str | None:
    """Apply one override in place; say what is wrong with it, if anything."""
    snip_id, embryo_id = row.get("snip_id", ""), row.get("embryo_id", "")
    if bool(snip_id) == bool(embryo_id):
        return "give either snip_id or embryo_id"
    if row["column"] not in flags:
        return f"{row['column']!r} cannot be overridden; flags are {', '.join(flags)}"
    value = row["value"].lower()
    if value not in _VALUES:
        return f"value {row['value']!r} is neither true, false nor blank"
    chosen = table["snip_id"] == snip_id if snip_id else table["embryo_id"] == embryo_id
    if not chosen.any():
        return f"the table has no {snip_id or embryo_id}"
    table.loc[chosen, row["column"]] = pd.NA if _VALUES[value] is None else _VALUES[value]
    table.loc[chosen, f"{row['column']}_reason"] = row["reason"] or "by hand"
    before = table.loc[chosen, "curated"].fillna("")
    table.loc[chosen, "curated"] = [f"{b},{row['column']}".lstrip(",") for b in before]
    return None
