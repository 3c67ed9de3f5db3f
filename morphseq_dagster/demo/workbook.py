"""The plate workbook of the demo: one 8 x 12 sheet per variable (spec, science 2)."""

from __future__ import annotations

import datetime
import io
import re
import zipfile
from collections.abc import Mapping

from openpyxl import Workbook

from morphseq_dagster.demo.plan import WellPlan

Cell = str | float | None
SHEETS = ("medium", "genotype", "chem_perturbation", "start_age_hpf", "embryos_per_well", "temperature", "pair")
_EPOCH = (1980, 1, 1, 0, 0, 0)
_MODIFIED = re.compile(rb"(<dcterms:modified[^>]*>)[^<]*(</dcterms:modified>)")


def make_workbook(sheets: Mapping[str, Mapping[str, Cell]]) -> bytes:
    """Make a plate workbook (xlsx) whose bytes depend on its cells alone.

    Row 1 holds a blank and 1..12, column A the letters A..H; a well without a value stays blank. Values are given
    by sheet and well (`A01`).
    """
    book = Workbook()
    if book.active is not None:
        book.remove(book.active)
    book.properties.creator = "morphseq demo"
    book.properties.created = datetime.datetime(*_EPOCH)  # noqa: DTZ001 - the format stores no zone
    for name, cells in sheets.items():
        sheet = book.create_sheet(name)
        sheet.append([None, *range(1, 13)])
        for letter in "ABCDEFGH":
            sheet.append([letter, *(cells.get(f"{letter}{column:02d}") for column in range(1, 13))])
    raw = io.BytesIO()
    book.save(raw)
    return _fix_bytes(raw.getvalue())


def fill_workbook(wells: tuple[WellPlan, ...]) -> dict[str, dict[str, Cell]]:
    """Cells of the plate workbook, sheet by sheet; an empty well has its row, with no embryo in it."""
    return {name: {well.well: getattr(well, name) for well in wells} for name in SHEETS}


def _fix_bytes(data: bytes) -> bytes:
    """Set the time of saving and the dates of all zip entries to the epoch of the format."""
    fixed = io.BytesIO()
    stamp = datetime.datetime(*_EPOCH).strftime("%Y-%m-%dT%H:%M:%SZ").encode()  # noqa: DTZ001
    with zipfile.ZipFile(io.BytesIO(data)) as source, zipfile.ZipFile(fixed, "w", zipfile.ZIP_DEFLATED) as target:
        for name in source.namelist():
            content = source.read(name)
            if name == "docProps/core.xml":
                content = _MODIFIED.sub(rb"\g<1>" + stamp + rb"\g<2>", content)
            entry = zipfile.ZipInfo(name, _EPOCH)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = 0o600 << 16
            target.writestr(entry, content)
    return fixed.getvalue()
