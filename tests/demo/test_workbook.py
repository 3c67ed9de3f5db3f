"""The plate workbook of the demo."""

from __future__ import annotations

import io
import zipfile

from openpyxl import load_workbook

from morphseq_dagster.demo.workbook import make_workbook


def test_grid_has_headings_and_cells_where_spec_wants_them() -> None:
    data = make_workbook({"temperature": {"A01": 28.5, "H12": 30.0}, "genotype": {"B03": "wt_ab", "B04": None}})
    book = load_workbook(io.BytesIO(data))
    assert book.sheetnames == ["temperature", "genotype"]
    sheet = book["temperature"]
    assert [cell.value for cell in sheet[1]] == [None, *range(1, 13)]
    assert [sheet.cell(row, 1).value for row in range(2, 10)] == list("ABCDEFGH")
    assert (sheet["B2"].value, sheet["M9"].value) == (28.5, 30.0)
    assert (book["genotype"]["D3"].value, book["genotype"]["E3"].value) == ("wt_ab", None)


def test_file_carries_no_time_of_saving() -> None:
    with zipfile.ZipFile(io.BytesIO(make_workbook({"pair": {"A01": "1"}}))) as archive:
        assert {entry.date_time for entry in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
        core = archive.read("docProps/core.xml").decode()
    assert core.count("1980-01-01T00:00:00Z") == 2
    assert ">20" not in core
