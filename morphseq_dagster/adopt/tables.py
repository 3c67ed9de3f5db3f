"""Older tables: the same columns under the same names, with older ids, text `nan` and columns of other programs.

A table is converted to a contract of ours. A missing column that may be null is filled with null and named; one that
follows from others is derived and named; any other refuses the table.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from morphseq_dagster.adopt.context import collect
from morphseq_dagster.adopt.legacy_ids import (
    relative_path,
    translate_embryo,
    translate_image,
    translate_mask_name,
    translate_snip,
)
from morphseq_dagster.adopt.tolerant_json import number_or_none
from morphseq_dagster.engine.tables.table import Column, TableContract
from morphseq_dagster.errors import ContractError, MorphseqError
from morphseq_dagster.identifiers import mint_video

Row = dict[str, str]
_NULLS: Final = frozenset({"nan", "none", "null", "<na>", "na", "n/a"})
_TRANSLATED: Final[Mapping[str, Callable[[str], str]]] = {
    "image_id": lambda text: translate_image(text)[0],
    "embryo_id": translate_embryo,
    "snip_id": translate_snip,
    "exported_mask_path": translate_mask_name,
}
_KEPT_TEXTS: Final = frozenset({"genotype", "chem_perturbation", "medium", "phenotype"})
"""Columns in which `none` and `na` are words of the lab and only `nan` is a program's null."""


def _frame_text(row: Row) -> str:
    number = number_or_none(row.get("time_int"))
    return "" if number is None else f"T{int(number):04d}"


def _scale(row: Row) -> str:
    height, pixels = number_or_none(row.get("Height (um)")), number_or_none(row.get("Height (px)"))
    return repr(height / pixels) if height and pixels else ""


_DERIVED: Final[Mapping[str, Mapping[str, Callable[[Row], str]]]] = {
    "built_metadata": {"time_string": _frame_text, "um_per_px": _scale},
    "sam2_metadata": {"time_string": _frame_text},
}
"""Columns that follow from others, by table."""


def convert_table(
    path: Path, *, contract: TableContract, experiment: str, where: str, microscope: str | None = None
) -> tuple[bytes, int, tuple[str, ...]]:
    """Convert an older table.

    Parameters
    ----------
    path
        The file.
    contract
        What it becomes.
    experiment
        Experiment that it must be of.
    where
        Name of the file for messages.
    microscope
        Microscope of the experiment, for tables that lack the column.

    Returns
    -------
    tuple
        Content in our form, number of rows, warnings.

    Raises
    ------
    ContractError
        Naming every required column that is missing, or every cell that breaks the contract.
    PermanentError
        Naming every id that cannot be read.
    """
    rows, names = _read(path, where=where)
    warnings: list[str] = []
    derived = dict(_DERIVED.get(contract.name, {}))
    if microscope is not None and contract.name == "built_metadata":
        derived["microscope"] = lambda _: microscope
    if contract.name == "built_metadata":
        derived |= {
            "experiment_date": lambda _: experiment,
            "well_id": lambda row: mint_video(experiment, well=row.get("well", "")),
        }
    missing = [column for column in contract.columns if column.name not in names]
    _refuse_missing([c for c in missing if not c.nullable and c.name not in derived], contract=contract, where=where)
    made = [column.name for column in missing if column.name in derived]
    filled = [column.name for column in missing if column.name not in derived]
    dropped = [] if contract.extra else [name for name in names if name not in contract.names]
    problems: list[str] = []
    for number, row in enumerate(rows, start=2):
        _translate(row, experiment=experiment, number=number, problems=problems)
        row.update({name: derived[name](row) for name in made})
        row.update(dict.fromkeys(filled, ""))
        for name in dropped:
            del row[name]
    collect(problems, expected=f"a table of {experiment}", where=where, remedy="mend the named lines")
    warnings += [f"columns derived from others: {', '.join(made)}"] if made else []
    warnings += [f"columns that the older table lacks are null: {', '.join(filled)}"] if filled else []
    warnings += [f"columns of the older table that are not ours were left out: {', '.join(dropped)}"] if dropped else []
    extra = [name for name in names if name not in contract.names and name not in dropped]
    data = _write(rows, names=[*contract.names, *extra])
    return contract.encode(contract.decode(data, where=where), where=where), len(rows), tuple(warnings)


def refuse_older_ids(data: bytes, *, experiment: str, where: str) -> None:
    """Refuse a table in our form whose ids are not: a contract of text columns lets older ids pass.

    Raises
    ------
    PermanentError
        Naming the first cells.
    """
    problems: list[str] = []
    for number, row in enumerate(csv.DictReader(io.StringIO(data.decode(), newline="")), start=2):
        ours = dict(row)
        _translate(ours, experiment=experiment, number=number, problems=problems)
        problems += [f"line {number}: {n} is {row[n]!r}, not {ours[n]!r}" for n in row if row[n] != ours[n]]
    collect(problems, expected=f"a table of {experiment} with ids in our form", where=where, remedy="adopt it")


def _read(path: Path, *, where: str) -> tuple[list[Row], list[str]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as handle:
            reader = csv.DictReader(handle, restkey="\0rest", restval=None)
            rows, names = list(reader), list(reader.fieldnames or ())
    except (UnicodeDecodeError, csv.Error) as error:
        raise ContractError(
            expected="a CSV table in UTF-8", found=str(error), where=where, remedy="restore the file"
        ) from error
    ragged = [str(n) for n, row in enumerate(rows, start=2) if "\0rest" in row or None in row.values()]
    twice = sorted({name for name in names if names.count(name) > 1})
    problems = [f"lines with too many or too few cells: {', '.join(ragged[:10])}"] if ragged else []
    problems += [f"columns stand twice: {', '.join(twice)}"] if twice else []
    collect(problems, expected="a whole table", where=where, remedy="restore the file")
    # pandas writes its index as a column without a name.
    rows = [{k: _null(k, v) for k, v in row.items() if k and not k.startswith("Unnamed:")} for row in rows]
    return rows, [name for name in names if name and not name.startswith("Unnamed:")]


def _null(name: str, cell: str) -> str:
    word = cell.strip().lower()
    null = word == "nan" if name in _KEPT_TEXTS else word in _NULLS
    return "" if null else cell


def _translate(row: Row, *, experiment: str, number: int, problems: list[str]) -> None:
    """Turn a row's ids into ours, in place; a row of another experiment is a problem."""
    for name, translate in _TRANSLATED.items():
        if row.get(name):
            try:
                row[name] = translate(row[name])
            except MorphseqError as error:
                problems.append(f"line {number}, {name}: {error.found}")
    stated = {name: row[name] for name in ("experiment_id", "experiment_date") if row.get(name)}
    problems += [f"line {number}: {name} is {cell}" for name, cell in stated.items() if cell != experiment]
    ids = [row[name] for name in ("video_id", "image_id", "embryo_id", "snip_id") if row.get(name)]
    if any(not text.startswith(f"{experiment}_") for text in ids):
        problems.append(f"line {number}: {ids[0]} is not of {experiment}")
    for name, cell in row.items():
        if name.endswith("_path") and cell.startswith("/"):
            row[name] = relative_path(cell)


def _refuse_missing(columns: list[Column], *, contract: TableContract, where: str) -> None:
    if columns:
        raise ContractError(
            expected=f"every column of {contract.name} that may not be null",
            found=f"{len(columns)} missing: {', '.join(column.name for column in columns)}",
            where=where,
            remedy="let the pipeline make the table from what was adopted before it",
        )


def _write(rows: list[Row], *, names: list[str]) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()
