"""Table contracts: what is written can be read, equal tables give equal bytes, every violation is named."""

from __future__ import annotations

import math
from random import Random
from typing import Any

import pandas as pd
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from morphseq_dagster.engine.tables.table import Column, TableContract
from morphseq_dagster.errors import ContractError

CONTRACT = TableContract(
    "cells",
    (
        Column("well", "str"),
        Column("time_int", "int", minimum=0),
        Column("area_um2", "float", unit="um2", nullable=True),
        Column("share", "float", nullable=True, minimum=0, maximum=1, decimals=3),
        Column("count", "int", nullable=True),
        Column("use", "bool", nullable=True),
        Column("phase", "str", nullable=True, allowed=("early", "late")),
        Column("note", "str", nullable=True),
    ),
    key=("well", "time_int"),
    order=("well", "time_int"),
)

GOOD: dict[str, Any] = {
    "well": "A01",
    "time_int": 0,
    "area_um2": 1.5,
    "share": 0.25,
    "count": 3,
    "use": True,
    "phase": "early",
    "note": "x",
}


def table(*rows: dict[str, Any]) -> pd.DataFrame:
    return pd.DataFrame([{**GOOD, **row} for row in rows])


def refused(frame: pd.DataFrame, contract: TableContract = CONTRACT) -> str:
    with pytest.raises(ContractError) as caught:
        contract.encode(frame, where="table.csv")
    assert caught.value.where == "table.csv"
    return caught.value.found


def test_table_is_written_in_the_order_of_the_contract_with_blank_for_null() -> None:
    frame = table(
        {"well": "B02", "area_um2": None, "share": 0.33333, "count": None, "use": None, "phase": None, "note": None},
        {"well": "A01", "time_int": 10},
        {"well": "A01", "time_int": 9, "use": False},
    )
    shuffled = frame[list(reversed(frame.columns))]
    expected = (
        "well,time_int,area_um2,share,count,use,phase,note\n"
        "A01,9,1.5,0.25,3,False,early,x\n"
        "A01,10,1.5,0.25,3,True,early,x\n"
        "B02,0,,0.333,,,,\n"
    )
    assert CONTRACT.encode(shuffled, where="t").decode() == expected


def test_types_come_back_and_blank_cells_are_null_not_text_nan() -> None:
    data = CONTRACT.encode(table({"area_um2": None, "count": None, "use": None, "note": None}), where="t")
    frame = CONTRACT.decode(data, where="t")
    assert [str(t) for t in frame.dtypes] == [
        "string", "Int64", "float64", "float64", "Int64", "boolean", "string", "string",
    ]  # fmt: skip
    assert frame[["area_um2", "count", "use", "note"]].isna().all(axis=None)
    assert b"nan" not in data.lower()


def test_numeric_looking_ids_stay_text() -> None:
    frame = CONTRACT.decode(CONTRACT.encode(table({"well": "007", "note": "20240418"}), where="t"), where="t")
    assert list(frame["well"]) == ["007"]
    assert list(frame["note"]) == ["20240418"]


@pytest.mark.parametrize("text", ["NA", "nan", "null", "None", "True", "1e5", "-"])
def test_words_that_look_like_null_or_numbers_stay_text(text: str) -> None:
    frame = CONTRACT.decode(CONTRACT.encode(table({"note": text}), where="t"), where="t")
    assert list(frame["note"]) == [text]


def test_input_is_not_modified() -> None:
    frame = table({"well": "B02"}, {"well": "A01"})
    before = frame.copy(deep=True)
    CONTRACT.encode(frame, where="t")
    pd.testing.assert_frame_equal(frame, before)


def test_every_violation_is_named_at_once() -> None:
    frame = table(
        {"well": None, "share": 1.5, "phase": "noon"}, {"time_int": -1, "count": 1.5}, {"time_int": 7}, {"time_int": 7}
    )
    found = refused(frame.drop(columns="use").assign(surplus=1))
    assert "column use is missing" in found
    assert "column surplus is not part of the contract" in found
    assert "well:" in found
    assert "share: less_than_or_equal_to(1) fails" in found
    assert "1.5" in found
    assert "phase: isin" in found
    assert "'noon'" in found
    assert "time_int: greater_than_or_equal_to(0) fails" in found
    assert "-1" in found
    assert "count: " in found
    assert "7" in found


def test_duplicate_key_is_refused() -> None:
    assert "time_int" in refused(table({}, {}))


def test_duplicate_column_is_refused() -> None:
    frame = table({})
    for name in ("note", "well", "count"):
        assert f"columns appear twice: {name}" in refused(pd.concat([frame, frame[[name]]], axis=1))


def test_empty_text_where_text_is_wanted_is_refused_before_it_is_written() -> None:
    # A blank cell reads back as null: a table that its own contract cannot read must not be published.
    assert "well" in refused(table({"well": ""}))


def test_empty_text_where_null_is_allowed_is_written_as_null() -> None:
    frame = CONTRACT.decode(CONTRACT.encode(table({"note": ""}), where="t"), where="t")
    assert frame["note"].isna().all()


def test_missing_value_of_a_required_float_is_refused() -> None:
    contract = TableContract("t", (Column("x_um", "float"),), key=(), order=())
    assert "x_um" in refused(pd.DataFrame({"x_um": [1.0, math.nan]}), contract)


def test_empty_table_round_trips_and_may_be_forbidden() -> None:
    data = CONTRACT.encode(CONTRACT.empty(), where="t")
    assert data == b"well,time_int,area_um2,share,count,use,phase,note\n"
    frame = CONTRACT.decode(data, where="t")
    assert frame.empty
    assert [str(t) for t in frame.dtypes] == [str(t) for t in CONTRACT.empty().dtypes]
    strict = TableContract("t", CONTRACT.columns, key=(), order=(), may_be_empty=False)
    assert "no rows" in refused(strict.empty(), strict)


def test_extra_columns_follow_when_the_contract_allows_them() -> None:
    contract = TableContract("t", (Column("well", "str"),), key=("well",), order=("well",), extra=True)
    data = contract.encode(pd.DataFrame({"genotype": ["wt", None], "well": ["B01", "A01"]}), where="t")
    assert data == b"well,genotype\nA01,\nB01,wt\n"
    assert contract.encode(contract.decode(data, where="t"), where="t") == data


def test_columns_out_of_order_on_the_disk_are_read_all_the_same() -> None:
    contract = TableContract("t", (Column("a", "int"), Column("b", "int")), key=("a",), order=("a",))
    assert contract.decode(b"b,a\n1,2\n", where="t").to_dict("list") == {"a": [2], "b": [1]}


@pytest.mark.parametrize(
    ("line", "word"),
    [
        ("A01,0,many,0.5,1,True,early,x", "area_um2"),
        ("A01,0,1.5,0.5,1.5,True,early,x", "count"),
        ("A01,0,1.5,0.5,99999999999999999999999,True,early,x", "count"),
        ("A01,0,1.5,0.5,1,maybe,early,x", "use"),
        (",0,1.5,0.5,1,True,early,x", "well"),
        ("A01,zero,1.5,0.5,1,True,early,x", "time_int"),
        ("A01,0,1.5,0.5,1,True,early,x,y", ""),
    ],
)
def test_bad_cell_of_a_file_is_named(line: str, word: str) -> None:
    data = ("well,time_int,area_um2,share,count,use,phase,note\n" + line + "\n").encode()
    with pytest.raises(ContractError) as caught:
        CONTRACT.decode(data, where="t.csv")
    assert word in caught.value.found
    assert caught.value.where == "t.csv"


@pytest.mark.parametrize("data", [b"", b"\n", b"\xff\xfe\x00", b'"', b"well\n\x00\n", b"a,b\n1,2,3,4\n1\n"])
def test_file_that_is_no_such_table_is_a_contract_error(data: bytes) -> None:
    with pytest.raises(ContractError):
        CONTRACT.decode(data, where="t")


@given(st.binary(max_size=80))
def test_any_bytes_are_a_table_or_a_contract_error(data: bytes) -> None:
    try:
        frame = CONTRACT.decode(b"well,time_int,area_um2,share,count,use,phase,note\n" + data, where="t")
    except ContractError:
        return
    again = CONTRACT.encode(frame, where="t")
    assert CONTRACT.encode(CONTRACT.decode(again, where="t"), where="t") == again


text = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8)
# Keys that differ in their line ends alone would be one key on the disk.
plain = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r"), min_size=1, max_size=8)
row = st.fixed_dictionaries(
    {
        "well": plain,
        "time_int": st.integers(0, 2**62),
        "area_um2": st.none() | st.floats(allow_nan=False),
        "share": st.none() | st.floats(0, 1),
        "count": st.none() | st.integers(-(2**62), 2**62),
        "use": st.none() | st.booleans(),
        "phase": st.none() | st.sampled_from(["early", "late"]),
        "note": st.none() | text,
    }
)


@given(st.lists(row, max_size=5, unique_by=lambda r: (r["well"], r["time_int"])))
@example([{**GOOD, "note": "a\rb"}])
@example([{**GOOD, "note": 'a"b,c\nd'}])
@example([{**GOOD, "note": "\0"}])
@example([{**GOOD, "note": " "}])
@example([{**GOOD, "count": 2**60 + 1}, {**GOOD, "well": "B01", "count": None}])
@example([{**GOOD, "area_um2": 5e-324}, {**GOOD, "well": "B01", "area_um2": 0.1 + 0.2}])
@example([{**GOOD, "area_um2": 1.7976931348623157e308}, {**GOOD, "well": "B01", "area_um2": -0.0}])
def test_written_and_read_again_gives_equal_values_and_equal_bytes(rows: list[dict[str, Any]]) -> None:
    # Object columns: pandas would turn whole numbers with gaps into floats before the contract sees them.
    frame = pd.DataFrame({c: pd.Series([r[c] for r in rows], dtype=object) for c in CONTRACT.names})
    data = CONTRACT.encode(frame, where="t")
    back = CONTRACT.decode(data, where="t")
    assert CONTRACT.encode(back, where="t") == data
    # The one line end inside a cell is the newline.
    rows = [
        {n: v.replace("\r\n", "\n").replace("\r", "\n") if isinstance(v, str) else v for n, v in r.items()}
        for r in rows
    ]
    ordered = sorted(rows, key=lambda r: (r["well"], r["time_int"]))
    assert len(back) == len(ordered)
    for expected, (_, found) in zip(ordered, back.iterrows(), strict=True):
        for name in CONTRACT.names:
            value = expected[name]
            if value is None:
                assert pd.isna(found[name])
            elif name == "share":
                assert found[name] == round(value, 3)
            else:
                assert found[name] == value


@given(st.lists(row, min_size=1, max_size=5, unique_by=lambda r: (r["well"], r["time_int"])), st.randoms())
def test_order_of_rows_and_columns_does_not_reach_the_bytes(rows: list[dict[str, Any]], random: Random) -> None:
    frame = pd.DataFrame({c: pd.Series([r[c] for r in rows], dtype=object) for c in CONTRACT.names})
    names, places = list(frame.columns), list(range(len(frame)))
    random.shuffle(names)
    random.shuffle(places)
    assert CONTRACT.encode(frame.iloc[places][names], where="t") == CONTRACT.encode(frame, where="t")
