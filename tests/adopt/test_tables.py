from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from morphseq_dagster.adopt.tables import convert_table, refuse_older_ids
from morphseq_dagster.engine.tables.table import Column, TableContract
from morphseq_dagster.errors import MorphseqError, PermanentError
from morphseq_dagster.morphseq.contracts.latents import CONTRACT as LATENTS

EXP = "20240418"
CONTRACT = TableContract(
    "small",
    (
        Column("snip_id", "str"),
        Column("area", "float", minimum=0),
        Column("flag", "bool", nullable=True),
        Column("genotype", "str", nullable=True),
    ),
    key=("snip_id",),
    order=("snip_id",),
)


def convert(path: Path, text: str, contract: TableContract = CONTRACT) -> tuple[list[dict[str, str]], tuple[str, ...]]:
    path.write_text(text)
    data, _, warnings = convert_table(path, contract=contract, experiment=EXP, where="f")
    return list(csv.DictReader(io.StringIO(data.decode()))), warnings


def test_ids_nulls_and_columns_become_ours(tmp_path: Path) -> None:
    text = f"﻿,snip_id,area,flag,old\n0,{EXP}_A01_e01_s0001,1.5,True,x\n1,{EXP}_A01_e01_0000,2,nan,y\n"
    rows, warnings = convert(tmp_path / "t.csv", text)
    assert rows == [
        {"snip_id": f"{EXP}_A01_e01_t0000", "area": "2.0", "flag": "", "genotype": ""},
        {"snip_id": f"{EXP}_A01_e01_t0001", "area": "1.5", "flag": "True", "genotype": ""},
    ]
    assert warnings == (
        "columns that the older table lacks are null: genotype",
        "columns of the older table that are not ours were left out: old",
    )


def test_none_is_a_word_of_the_lab_in_a_genotype(tmp_path: Path) -> None:
    rows, _ = convert(tmp_path / "t.csv", f"snip_id,area,flag,genotype\n{EXP}_A01_e01_t0000,1,None,none\n")
    assert (rows[0]["flag"], rows[0]["genotype"]) == ("", "none")


def test_columns_of_a_model_are_carried(tmp_path: Path) -> None:
    text = f"experiment_date,embryo_id,snip_id,z_mu_b_20\n{EXP},{EXP}_A01_e01,{EXP}_A01_e01_s0000,0.25\n"
    rows, warnings = convert(tmp_path / "t.csv", text, LATENTS)
    assert (rows[0]["snip_id"], rows[0]["z_mu_b_20"], warnings) == (f"{EXP}_A01_e01_t0000", "0.25", ())


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("snip_id,flag\n", "area"),
        (f"snip_id,area,flag,genotype\n{EXP}_A01_e01_t0000,-1,,\n", "area"),
        (f"snip_id,area,flag,genotype\n{EXP}_A01_e01_t0000,1,,\n{EXP}_A01_e01_s0000,1,,\n", "snip_id"),
        ("snip_id,area,flag,genotype\n20240419_A01_e01_t0000,1,,\n", "is not of"),
        ("snip_id,area,flag,genotype\nnonsense,1,,\n", "line 2, snip_id"),
        (f"snip_id,area,flag,genotype\n{EXP}_A01_e01_t0000,1\n", "too few cells"),
        ("snip_id,area,area,flag,genotype\n", "twice: area"),
    ],
)
def test_what_breaks_the_contract_is_refused_by_name(tmp_path: Path, text: str, found: str) -> None:
    with pytest.raises(PermanentError, match=found):
        convert(tmp_path / "t.csv", text)


def test_older_ids_in_our_form_are_refused() -> None:
    refuse_older_ids(f"snip_id\n{EXP}_A01_e01_t0000\n".encode(), experiment=EXP, where="f")
    with pytest.raises(PermanentError, match="line 2"):
        refuse_older_ids(f"snip_id\n{EXP}_A01_e01_s0000\n".encode(), experiment=EXP, where="f")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(st.characters(codec="utf-8"), max_size=80))
def test_any_text_is_a_table_of_ours_or_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "t.csv"
    for head in ("", "snip_id,area,flag,genotype\n", f"snip_id,area\n{EXP}_A01_e01_t0000,"):
        path.write_text(head + text, newline="")
        try:
            data, rows, _ = convert_table(path, contract=CONTRACT, experiment=EXP, where="f")
        except MorphseqError:
            continue
        assert len(CONTRACT.decode(data, where="f")) == rows
