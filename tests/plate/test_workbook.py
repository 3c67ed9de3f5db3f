"""The plate workbook: blanks stay null, doubtful cells are named, nothing is shifted or guessed."""

from __future__ import annotations

import datetime
import subprocess
import sys
from pathlib import Path

import openpyxl
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from morphseq_dagster.errors import PermanentError
from morphseq_dagster.plate.sheets import WELLS, Cell, as_number, as_text
from morphseq_dagster.plate.workbook import KNOWN_SHEETS, PlateTable, PlateWell, read_plate_workbook

NUMBERS = list(range(1, 13))


def save(
    path: Path, sheets: dict[str, dict[str, object]], *, headings: list[object] | None = None, letters: str = "ABCDEFGH"
) -> Path:
    """Write sheets given by cell address (A01 is B2)."""
    book = openpyxl.Workbook()
    book.remove(book.active)
    for name, cells in sheets.items():
        sheet = book.create_sheet(name)
        for j, heading in enumerate(headings or NUMBERS):
            sheet.cell(1, j + 2, heading)
        for i, letter in enumerate(letters):
            sheet.cell(i + 2, 1, letter)
        for well, value in cells.items():
            sheet.cell("ABCDEFGH".index(well[0]) + 2, int(well[1:]) + 1, value)
    book.save(path)
    return path


def complete(**changes: dict[str, object]) -> dict[str, dict[str, object]]:
    wells = ("A01", "H12")
    sheets: dict[str, dict[str, object]] = {
        "medium": dict.fromkeys(wells, "E3"),
        "genotype": dict.fromkeys(wells, "wik"),
        "chem_perturbation": {},
        "start_age_hpf": dict.fromkeys(wells, 11),
        "embryos_per_well": dict.fromkeys(wells, 1),
        "temperature": dict.fromkeys(wells, 28.5),
        "pair": {},
    }
    return sheets | changes


def row_of(plate: PlateTable, well: str) -> PlateWell:
    return plate.rows[WELLS.index(well)]


def test_cells_land_on_their_wells(tmp_path: Path) -> None:
    path = save(tmp_path / "p.xlsx", complete(genotype={"A01": "wik", "A02": "ab", "B01": "tl", "H12": "lmx1b"}))
    plate = read_plate_workbook(path)
    assert [row.well for row in plate.rows] == list(WELLS)
    assert (WELLS[0], WELLS[1], WELLS[12], WELLS[95]) == ("A01", "A02", "B01", "H12")
    assert {row.well: row.genotype for row in plate.rows if row.genotype} == {
        "A01": "wik",
        "A02": "ab",
        "B01": "tl",
        "H12": "lmx1b",
    }
    row = row_of(plate, "H12")
    assert (row.start_age_hpf, row.temperature, row.temperature_source, row.embryos_per_well) == (
        11.0,
        28.5,
        "workbook",
        1.0,
    )
    assert plate.problems == ()
    assert plate.missing_sheets == ()


def test_blank_cell_is_null_not_text_nan(tmp_path: Path) -> None:
    path = save(tmp_path / "p.xlsx", complete(genotype={"A01": "", "A02": "  ", "A03": "nan", "A04": "None"}))
    plate = read_plate_workbook(path)
    assert [row_of(plate, w).genotype for w in ("A01", "A02", "A03", "A04", "A05")] == [None, None, None, "None", None]
    frame = plate.to_frame()
    assert not (frame.astype("string") == "nan").any(axis=None)
    assert frame["chem_perturbation"].isna().all()
    assert str(frame["chem_perturbation"].dtype) == "string"


@pytest.mark.parametrize(
    "headings", [[str(n) for n in NUMBERS], [f" {n:02d} " for n in NUMBERS], [float(n) for n in NUMBERS]]
)
def test_text_headings_are_coerced(tmp_path: Path, headings: list[object]) -> None:
    plate = read_plate_workbook(save(tmp_path / "p.xlsx", complete(), headings=headings, letters="abcdefgh"))
    assert row_of(plate, "A01").temperature == 28.5
    assert plate.problems == ()


def test_columns_follow_their_headings_not_their_place(tmp_path: Path) -> None:
    path = save(tmp_path / "p.xlsx", {"genotype": {"A01": "x"}}, headings=list(reversed(NUMBERS)))
    assert row_of(read_plate_workbook(path), "A12").genotype == "x"


def test_wrong_heading_leaves_the_sheet_null_and_names_the_cell(tmp_path: Path) -> None:
    headings = [*NUMBERS[:5], "six", *NUMBERS[6:11], 11]
    plate = read_plate_workbook(save(tmp_path / "p.xlsx", {"genotype": {"A01": "x"}}, headings=list(headings)))
    assert row_of(plate, "A01").genotype is None
    assert [(p.sheet, p.cell) for p in plate.problems] == [("genotype", "G1"), ("genotype", "M1")]
    assert "genotype" not in plate.missing_sheets


def test_sheet_without_headings_is_a_problem_when_half_labelled_and_ignored_when_free_text(tmp_path: Path) -> None:
    book = openpyxl.Workbook()
    book.active.title = "notes"
    book.active["A1"] = "imaged by the night shift"
    half = book.create_sheet("genotype")
    for i, letter in enumerate("ABCDEFGH"):
        half.cell(i + 2, 1, letter)
    half["B2"] = "wik"
    book.save(tmp_path / "p.xlsx")
    plate = read_plate_workbook(tmp_path / "p.xlsx")
    assert plate.ignored_sheets == ("notes",)
    assert [p.sheet for p in plate.problems] == ["genotype"] * len(plate.problems)
    assert plate.problems
    assert row_of(plate, "A01").genotype is None


def test_missing_sheets_give_null_columns_and_are_listed(tmp_path: Path) -> None:
    plate = read_plate_workbook(save(tmp_path / "p.xlsx", {"genotype": {"A01": "wik"}}))
    assert plate.missing_sheets == tuple(name for name in KNOWN_SHEETS if name != "genotype")
    frame = plate.to_frame()
    assert list(frame.columns) == ["well", *KNOWN_SHEETS, "temperature_source", "start_age_label"]
    assert len(frame) == 96
    assert frame["temperature"].isna().all()
    assert frame["temperature"].dtype == "float64"


def test_error_value_and_formula_without_result_are_named(tmp_path: Path) -> None:
    path = save(tmp_path / "p.xlsx", complete())
    book = openpyxl.load_workbook(path)
    book["temperature"]["B2"] = "#REF!"
    book["genotype"]["C3"] = "=A1&B1"
    book.save(path)
    plate = read_plate_workbook(path)
    assert [(p.sheet, p.cell) for p in plate.problems] == [("genotype", "C3"), ("temperature", "B2")]
    assert "#REF!" in plate.problems[1].found
    assert "=A1&B1" in plate.problems[0].found
    assert row_of(plate, "A01").temperature is None
    assert row_of(plate, "B02").genotype is None


def test_start_age_may_be_an_identifier(tmp_path: Path) -> None:
    plate = read_plate_workbook(
        save(tmp_path / "p.xlsx", complete(start_age_hpf={"A01": "18ss", "A02": "24", "A03": 6.5}))
    )
    ages = [(row_of(plate, w).start_age_hpf, row_of(plate, w).start_age_label) for w in ("A01", "A02", "A03")]
    assert ages == [(None, "18ss"), (24.0, None), (6.5, None)]
    assert plate.problems == ()


def test_text_in_a_number_sheet_is_null_and_named(tmp_path: Path) -> None:
    plate = read_plate_workbook(
        save(tmp_path / "p.xlsx", complete(temperature={"A01": "warm", "A02": "28,5", "A03": "NA"}))
    )
    assert [row_of(plate, w).temperature for w in ("A01", "A02", "A03")] == [None, None, None]
    assert [p.cell for p in plate.problems] == ["B2", "C2"]


def test_names_that_look_like_numbers_keep_their_text(tmp_path: Path) -> None:
    path = save(
        tmp_path / "p.xlsx",
        complete(genotype={"A01": "007", "A02": 7, "A03": 7.5, "A04": datetime.date(2025, 3, 1)}),
    )
    plate = read_plate_workbook(path)
    assert [row_of(plate, f"A0{i}").genotype for i in range(1, 5)] == ["007", "7", "7.5", None]
    assert "date" in plate.problems[0].found


def test_further_sheets_are_carried_through(tmp_path: Path) -> None:
    path = save(tmp_path / "p.xlsx", complete(treatment={"A01": "heat"}, series_number_map={"A01": 1, "A02": 2}))
    plate = read_plate_workbook(path)
    assert plate.extra_sheets == ("treatment", "series_number_map")
    frame = plate.to_frame()
    assert frame["treatment"].iloc[0] == "heat"
    assert frame["series_number_map"].iloc[1] == 2.0
    assert pd.isna(frame["treatment"].iloc[1])


def test_sheet_that_would_overwrite_a_column_is_refused(tmp_path: Path) -> None:
    plate = read_plate_workbook(save(tmp_path / "p.xlsx", complete(well={"A01": "x"})))
    assert plate.to_frame()["well"].iloc[0] == "A01"
    assert [p.sheet for p in plate.problems] == ["well"]


def test_two_sheets_of_one_name_are_named(tmp_path: Path) -> None:
    plate = read_plate_workbook(save(tmp_path / "p.xlsx", {"genotype": {"A01": "wik"}, "genotype ": {"A01": "ab"}}))
    assert row_of(plate, "A01").genotype == "wik"
    assert "second sheet" in plate.problems[0].found


def test_source_of_a_temperature_is_the_workbook_or_none(tmp_path: Path) -> None:
    plate = read_plate_workbook(save(tmp_path / "p.xlsx", complete(temperature={"A01": 30.0})))
    assert (row_of(plate, "A01").temperature, row_of(plate, "A01").temperature_source) == (30.0, "workbook")
    assert (row_of(plate, "A02").temperature, row_of(plate, "A02").temperature_source) == (None, None)


@pytest.mark.parametrize("content", [b"", b"no workbook", b"PK\x03\x04broken"])
def test_broken_workbook_is_an_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "p.xlsx").write_bytes(content)
    with pytest.raises(PermanentError) as caught:
        read_plate_workbook(tmp_path / "p.xlsx")
    assert caught.value.where.endswith("p.xlsx")


def test_truncated_and_missing_workbooks_are_errors(tmp_path: Path) -> None:
    path = save(tmp_path / "p.xlsx", complete())
    path.write_bytes(path.read_bytes()[:-200])
    for wrong in (path, tmp_path / "none.xlsx", tmp_path):
        with pytest.raises(PermanentError):
            read_plate_workbook(wrong)


@given(st.one_of(st.none(), st.text(max_size=8), st.floats(), st.integers(), st.booleans(), st.datetimes()))
def test_any_cell_gives_a_finite_value_null_or_a_reason(value: object) -> None:
    cell = Cell(value, "B2")  # type: ignore[arg-type]
    number, why_no_number = as_number(cell)
    text, why_no_text = as_text(cell)
    assert number is None or (why_no_number is None and abs(number) < float("inf"))
    assert text is None or (why_no_text is None and text.strip() == text != "")


def test_assembled_real_plates_are_complete(shared: Path, tmp_path: Path) -> None:
    script = shared / "experiments" / "assemble.py"
    command = [sys.executable, str(script), str(tmp_path / "data"), "--only", "kimmelnet"]
    subprocess.run(command, check=True, capture_output=True)
    for path in sorted((tmp_path / "data/metadata/well_metadata").iterdir()):
        plate = read_plate_workbook(path)
        assert plate.problems == ()
        assert plate.missing_sheets == ("pair",)
        used = [row for row in plate.rows if row.genotype is not None]
        assert used
        assert all(row.start_age_hpf is not None and row.temperature is not None for row in used)


def test_wrong_and_repeated_row_headings_are_named(tmp_path: Path) -> None:
    plate = read_plate_workbook(save(tmp_path / "p.xlsx", {"genotype": {"A01": "x"}}, letters="ABCDXFGA"))
    assert [(p.sheet, p.cell, p.found) for p in plate.problems] == [
        ("genotype", "A6", "row heading 'X'"),
        ("genotype", "A9", "row heading A a second time"),
    ]
    assert row_of(plate, "A01").genotype is None
