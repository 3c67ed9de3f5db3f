"""The perturbation key: what a lab means by the names in its plate workbooks.

The key is never written: names it lacks are listed, not added (spec 6.5).
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pandas as pd

from morphseq_dagster.errors import PermanentError

KEY_COLUMNS = ("short_pert_name", "phenotype", "control_flag", "pert_type", "background")
"""Columns that the join adds to a table, besides `master_perturbation`."""
NamingRule = Literal["exact", "phenotype_background"]
_OPTIONAL = frozenset({"background"})
_BLANK = frozenset({"", "none", "nan"})
_BOOLEANS = {"true": True, "false": False, "1": True, "0": False}


@dataclass(frozen=True)
class KeyEntry:
    """One perturbation by its unique name; None is blank in the key."""

    master_perturbation: str
    short_pert_name: str | None
    phenotype: str | None
    control_flag: bool | None
    pert_type: str | None
    background: str | None


@dataclass(frozen=True)
class PerturbationJoin:
    """Result of a join.

    Attributes
    ----------
    table
        The given rows in their order, with `master_perturbation` and `KEY_COLUMNS`; null where nothing is known.
    conflicts
        Values of the table that differ from the key's and were kept, as "row label column: value, key says value".
    """

    table: pd.DataFrame
    unmatched: tuple[str, ...]
    conflicts: tuple[str, ...]


def read_perturbation_key(path: Path) -> tuple[KeyEntry, ...]:
    """Read the key from a comma-separated table, in the order of the file.

    Raises
    ------
    PermanentError
        When the file is missing or broken, columns are missing, a master is blank or occurs twice, or a control flag
        is neither true nor false; all are named.
    """
    try:
        data = path.read_bytes()
    except (FileNotFoundError, IsADirectoryError, PermissionError) as error:
        raise _refuse(path, error.strerror or str(error)) from error
    try:
        table = pd.read_csv(io.BytesIO(data), dtype=str, keep_default_na=False)
    except (ValueError, UnicodeDecodeError) as error:
        raise _refuse(path, f"text that is no table ({error})") from error
    needed = ("master_perturbation", *KEY_COLUMNS)
    faults = [f"column {name} missing" for name in needed if name not in table.columns and name not in _OPTIONAL]
    if faults:
        raise _refuse(path, "; ".join(faults))
    entries: list[KeyEntry] = []
    seen: dict[str, int] = {}
    for i, row in enumerate(table.to_dict("records")):
        line = i + 2
        cells = {str(name): str(value).strip() or None for name, value in row.items()}
        master, flag = cells["master_perturbation"], cells["control_flag"]
        if master is None:
            faults.append(f"line {line} has no master_perturbation")
            continue
        if master in seen:
            faults.append(f"line {line} repeats {master!r} of line {seen[master]}")
        if flag is not None and flag.lower() not in _BOOLEANS:
            faults.append(f"line {line} has control_flag {flag!r}")
        seen.setdefault(master, line)
        entries.append(
            KeyEntry(
                master_perturbation=master,
                short_pert_name=cells["short_pert_name"],
                phenotype=cells["phenotype"],
                control_flag=None if flag is None else _BOOLEANS.get(flag.lower()),
                pert_type=cells["pert_type"],
                background=cells.get("background"),
            )
        )
    if faults:
        raise _refuse(path, "; ".join(faults))
    return tuple(entries)


def join_perturbations(
    wells: pd.DataFrame, *, key: Sequence[KeyEntry] | None, naming: NamingRule = "exact"
) -> PerturbationJoin:
    """Add master perturbation and the key's columns to a table of wells.

    Parameters
    ----------
    wells
        Table with `genotype` and `chem_perturbation`; not modified. Values it already holds in the key's columns
        are kept, only nulls are filled.
    naming
        "exact": masters are looked up as they are. "phenotype_background": a master that is not in the key is also
        looked up as `{genotype}_{background}` when the table has a `background`, then as `wt_{genotype}` (a bare
        strain name is the wild type of that strain); only for masters that come from the genotype.

    Returns
    -------
    PerturbationJoin
        `master_perturbation` is the chemical unless blank or "None", else the genotype, else null (spec 6.5); a master
        found by the naming rule takes the key's spelling.
    """
    table = wells.copy()
    entries = {entry.master_perturbation: entry for entry in key or ()}
    masters: list[str | None] = []
    found: list[KeyEntry | None] = []
    unmatched: set[str] = set()
    backgrounds = [_said(v) for v in table["background"]] if "background" in table.columns else [None] * len(table)
    for chemical, genotype, background in zip(table["chem_perturbation"], table["genotype"], backgrounds, strict=True):
        chem, gene = _said(chemical), _said(genotype)
        master = chem or gene
        names = [master] if master else []
        if naming == "phenotype_background" and chem is None and gene is not None:
            names += [f"{gene}_{background}"] if background else []
            names.append(f"wt_{gene}")
        name = next((candidate for candidate in names if candidate in entries), None)
        masters.append(name or master)
        found.append(entries[name] if name else None)
        if master is not None and name is None:
            unmatched.add(master)
    table["master_perturbation"] = pd.Series(masters, index=table.index, dtype="string")
    conflicts: list[str] = []
    for column in KEY_COLUMNS:
        told = [None if entry is None else getattr(entry, column) for entry in found]
        if column in table.columns:
            own = [_own(value, boolean=column == "control_flag") for value in table[column]]
            conflicts += [
                f"{label} {column}: {mine!r}, key says {theirs!r}"
                for label, mine, theirs in zip(table.index, own, told, strict=True)
                if mine is not None and theirs is not None and mine != theirs
            ]
            told = [theirs if mine is None else mine for mine, theirs in zip(own, told, strict=True)]
        dtype = "boolean" if column == "control_flag" else "string"
        table[column] = pd.Series(told, index=table.index, dtype=dtype)
    return PerturbationJoin(table, tuple(sorted(unmatched)), tuple(conflicts))


def _said(value: object) -> str | None:
    """Text of a cell; blank, null, "None" and "nan" say nothing."""
    text = "" if value is None or value is pd.NA else str(value).strip()
    return None if text.lower() in _BLANK else text


def _own(value: object, *, boolean: bool) -> str | bool | None:
    text = _said(value)
    if text is None or not boolean:
        return text
    return _BOOLEANS.get(text.lower().removesuffix(".0"))


def _refuse(path: Path, found: str) -> PermanentError:
    return PermanentError(
        expected=f"a table with the columns master_perturbation, {', '.join(KEY_COLUMNS)} and unique masters",
        found=found,
        where=str(path),
        remedy="correct the key by hand, or remove the file: its columns then stay null",
    )
