"""The plate table: 96 wells as the workbook says, unusable cells named all at once."""

from __future__ import annotations

import pandas as pd
import pytest

from morphseq_dagster.demo.workbook import make_workbook
from morphseq_dagster.errors import PermanentError
from morphseq_dagster.morphseq.contracts.plate_metadata import CONTRACT
from morphseq_dagster.testing.step_bench import StepBench, read_table

SHEETS: dict[str, dict[str, str | float | None]] = {
    "medium": {"A01": "E3"},
    "genotype": {"A01": "wt_ab", "B02": "lmx1b_ab"},
    "chem_perturbation": {},
    "start_age_hpf": {"A01": 24.0, "B02": "18ss"},
    "embryos_per_well": {"A01": 1.0},
    "temperature": {"A01": 28.5},
    "pair": {"A01": 3.0},
}


def test_one_row_per_well_of_the_plate_in_order(bench: StepBench) -> None:
    bench.supply_file("plate_workbook", make_workbook(SHEETS), suffix=".xlsx")
    result = bench.run("plate_metadata")
    table = read_table(result, CONTRACT)
    assert list(table["well"]) == [f"{row}{column:02d}" for row in "ABCDEFGH" for column in range(1, 13)]
    assert set(table["experiment_id"]) == {"20250529_ctrl"}
    assert result.staged.counts == {"rows": 96}


def test_cells_become_typed_values_and_blanks_are_null(bench: StepBench) -> None:
    bench.supply_file("plate_workbook", make_workbook(SHEETS), suffix=".xlsx")
    table = read_table(bench.run("plate_metadata"), CONTRACT).set_index("well")
    first = table.loc["A01"]
    assert (first["medium"], first["genotype"], first["pair"]) == ("E3", "wt_ab", "3")
    assert (first["start_age_hpf"], first["embryos_per_well"], first["temperature"]) == (24.0, 1.0, 28.5)
    assert pd.isna(first["chem_perturbation"])
    assert table.loc["H12"].drop("experiment_id").isna().all()


def test_start_age_in_words_is_kept_as_a_label(bench: StepBench) -> None:
    bench.supply_file("plate_workbook", make_workbook(SHEETS), suffix=".xlsx")
    row = read_table(bench.run("plate_metadata"), CONTRACT).set_index("well").loc["B02"]
    assert pd.isna(row["start_age_hpf"])
    assert row["start_age_label"] == "18ss"


def test_missing_sheet_is_a_null_column_and_said(bench: StepBench) -> None:
    sheets = {name: cells for name, cells in SHEETS.items() if name != "temperature"}
    bench.supply_file("plate_workbook", make_workbook(sheets), suffix=".xlsx")
    result = bench.run("plate_metadata")
    assert read_table(result, CONTRACT)["temperature"].isna().all()
    assert result.staged.warnings == ("sheet temperature is missing: its column is null",)


def test_further_sheets_are_carried_through(bench: StepBench) -> None:
    bench.supply_file("plate_workbook", make_workbook({**SHEETS, "mold_type": {"A01": "flat"}}), suffix=".xlsx")
    table = read_table(bench.run("plate_metadata"), CONTRACT)
    assert table.columns[-1] == "mold_type"
    assert table.set_index("well").loc["A01", "mold_type"] == "flat"


def test_every_unusable_cell_is_named_in_one_error(bench: StepBench) -> None:
    sheets = {**SHEETS, "temperature": {"A01": "warm", "C03": "#REF!"}, "embryos_per_well": {"B02": "many"}}
    bench.supply_file("plate_workbook", make_workbook(sheets), suffix=".xlsx")
    with pytest.raises(PermanentError) as caught:
        bench.run("plate_metadata")
    for name in ("'temperature' cell B2", "'temperature' cell D4", "'embryos_per_well' cell C3"):
        assert name in caught.value.found
    assert caught.value.where.endswith("plate_workbook.xlsx")


def test_equal_cells_give_equal_bytes_whatever_else_the_file_holds(bench: StepBench) -> None:
    bench.supply_file("plate_workbook", make_workbook(SHEETS), suffix=".xlsx")
    first = bench.run("plate_metadata").staged.sha256
    reordered = {name: SHEETS[name] for name in sorted(SHEETS)}
    bench.supply_file("plate_workbook", make_workbook(reordered), suffix=".xlsx")
    assert bench.run("plate_metadata").staged.sha256 == first
