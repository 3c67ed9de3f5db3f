"""Single cells: what is blank, what is a number, what cannot be used."""

from __future__ import annotations

import datetime

import pytest

from morphseq_dagster.plate.sheets import Cell, CellProblem, as_number, as_number_or_text, as_stored, as_text


@pytest.mark.parametrize("text", ["", "  ", "nan", "NaN", " NA ", "na", "n/a", "N/A"])
def test_blanks_of_a_number_sheet(text: str) -> None:
    assert as_number(Cell(text, "B2")) == (None, None)


def test_na_is_a_name_where_text_belongs() -> None:
    assert as_text(Cell(" n/a ", "B2")) == ("n/a", None)
    assert as_number_or_text(Cell("NA", "B2")) == ("NA", None)
    assert as_text(Cell("nan", "B2")) == (None, None)


@pytest.mark.parametrize(
    ("text", "number"), [("28.5", 28.5), (" 7 ", 7.0), ("-.5", -0.5), ("+3.", 3.0), ("1e2", 100.0), ("2E-1", 0.2)]
)
def test_text_that_reads_as_a_number_is_one(text: str, number: float) -> None:
    assert as_number(Cell(text, "B2")) == (number, None)
    assert as_number_or_text(Cell(text, "B2")) == (number, None)
    assert as_stored(Cell(text, "B2")) == (text.strip(), None)


@pytest.mark.parametrize("text", ["28,5", "warm", "1e999", "1.2.3", "e5", "."])
def test_other_text_is_named_where_a_number_belongs(text: str) -> None:
    assert as_number(Cell(text, "B2")) == (None, f"text {text!r} where a number belongs")
    assert as_number_or_text(Cell(text, "B2")) == (text, None)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (7, "7"),
        (7.0, "7"),
        (7.5, "7.5"),
        (-2.0, "-2"),
        (999999999999999.0, "999999999999999"),
        (1e15, "1000000000000000.0"),
    ],
)
def test_whole_numbers_are_written_without_a_fraction(value: float, text: str) -> None:
    assert as_text(Cell(value, "B2")) == (text, None)
    assert as_stored(Cell(value, "B2")) == (float(value), None)


def test_truth_values_are_text() -> None:
    assert as_stored(Cell(True, "B2")) == ("True", None)
    assert as_text(Cell(False, "B2")) == ("False", None)


def test_what_cannot_be_used_is_said_and_no_value_is_given() -> None:
    assert as_stored(Cell(float("inf"), "B2")) == (None, "the number inf")
    assert as_stored(Cell(datetime.date(2025, 1, 2), "B2")) == (None, "the date or time 2025-01-02")
    for convert in (as_stored, as_text, as_number_or_text, as_number):
        assert convert(Cell("wik", "B2", "an error value")) == (None, "an error value")
        assert convert(Cell(5.0, "B2", "a formula without a result")) == (None, "a formula without a result")
    # What the workbook says of the cell comes before what its value says.
    assert as_stored(Cell(float("nan"), "B2", "an error value")) == (None, "an error value")


def test_problem_names_its_place() -> None:
    assert str(CellProblem("pair", "B2", "a date", "write text")) == "sheet 'pair' cell B2: a date. Remedy: write text"
    assert str(CellProblem("pair", None, "twice", "rename")) == "sheet 'pair': twice. Remedy: rename"
