"""Overrides by hand: applied as written, or refused line by line."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from morphseq_dagster.errors import ContractError
from morphseq_dagster.morphseq.steps.curation import apply_overrides

FLAGS = ("dead_flag", "frame_flag")
HEADING = "snip_id,embryo_id,column,value,reason\n"


@pytest.fixture
def table() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "snip_id": ["e01_t0", "e01_t1", "e02_t0"],
            "embryo_id": ["e01", "e01", "e02"],
            "dead_flag": pd.array([False, None, True], dtype="boolean"),
            "dead_flag_reason": pd.array(["", "viability not measured", ""], dtype="string"),
            "frame_flag": pd.array([False, False, False], dtype="boolean"),
            "frame_flag_reason": pd.array(["", "", ""], dtype="string"),
        }
    )


def apply(table: pd.DataFrame, tmp_path: Path, lines: str, *, encoding: str = "utf-8") -> pd.DataFrame:
    path = tmp_path / "20250529_ctrl_overrides.csv"
    path.write_text(lines, encoding=encoding)
    return apply_overrides(table, path=path, flags=FLAGS)


def test_without_a_file_nothing_is_curated(table: pd.DataFrame) -> None:
    done = apply_overrides(table, path=None, flags=FLAGS)
    assert done["curated"].isna().all()
    pd.testing.assert_frame_equal(done.drop(columns="curated"), table)


def test_one_snip_or_all_frames_of_an_embryo_are_set(table: pd.DataFrame, tmp_path: Path) -> None:
    lines = HEADING + "e02_t0,,dead_flag,FALSE,moves\n,e01,frame_flag,true,cut off\n"
    done = apply(table, tmp_path, lines)
    assert done["dead_flag"].to_list() == [False, pd.NA, False]
    assert done["frame_flag"].to_list() == [True, True, False]
    assert done["curated"].fillna("").to_list() == ["frame_flag", "frame_flag", "dead_flag"]
    assert done["dead_flag_reason"].to_list() == ["", "viability not measured", "moves"]


def test_blank_value_makes_a_flag_unknown_with_a_reason(table: pd.DataFrame, tmp_path: Path) -> None:
    done = apply(table, tmp_path, HEADING + "e02_t0,,dead_flag,,\n")
    assert pd.isna(done.loc[2, "dead_flag"])
    assert done.loc[2, "dead_flag_reason"] == "by hand"


def test_several_overrides_of_a_row_are_listed(table: pd.DataFrame, tmp_path: Path) -> None:
    done = apply(table, tmp_path, HEADING + "e01_t0,,dead_flag,true,a\ne01_t0,,frame_flag,true,b\n")
    assert done.loc[0, "curated"] == "dead_flag,frame_flag"


def test_the_given_table_is_not_modified(table: pd.DataFrame, tmp_path: Path) -> None:
    before = table.copy(deep=True)
    apply(table, tmp_path, HEADING + "e01_t0,,dead_flag,true,a\n")
    pd.testing.assert_frame_equal(table, before)


def test_file_saved_by_a_spreadsheet_with_a_byte_order_mark_is_read(table: pd.DataFrame, tmp_path: Path) -> None:
    done = apply(table, tmp_path, HEADING + "e01_t0,,dead_flag,true,a\n", encoding="utf-8-sig")
    assert done.loc[0, "dead_flag"]


def test_every_line_that_cannot_be_applied_is_named_at_once(table: pd.DataFrame, tmp_path: Path) -> None:
    lines = HEADING + (
        "e01_t0,e01,dead_flag,true,both\n"
        ",,dead_flag,true,none\n"
        "e09_t0,,dead_flag,true,absent\n"
        "e01_t0,,area_px,true,no flag\n"
        "e01_t0,,dead_flag,maybe,no value\n"
        "e01_t0,,dead_flag,true,right\n"
    )
    with pytest.raises(ContractError) as caught:
        apply(table, tmp_path, lines)
    found = caught.value.found
    for words in (
        "line 2: give either snip_id or embryo_id",
        "line 3: give either snip_id or embryo_id",
        "line 4: the table has no e09_t0",
        "line 5: 'area_px' cannot be overridden; flags are dead_flag, frame_flag",
        "line 6: value 'maybe' is neither true, false nor blank",
    ):
        assert words in found
    assert "line 7" not in found
    assert caught.value.where.endswith("20250529_ctrl_overrides.csv")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "empty|No columns"),
        (b"snip_id,column\ne01_t0,dead_flag\n", "column value is missing; column reason is missing"),
        (b"snip_id,column,value,reason,who\n", "column who is unknown"),
        (b"\xff\xfe\x00\x01", "utf-8|UTF-8"),
        (b'snip_id,column,value,reason\n"e01_t0,dead_flag,true,a\n', "quote|EOF|string"),
        (b"snip_id,column,value,reason\ne01_t0,dead_flag,true,a,b,c\n", "Length of header"),
    ],
    ids=["empty", "columns missing", "column unknown", "no text", "open quote", "too many cells"],
)
def test_broken_file_is_refused_by_name(table: pd.DataFrame, tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "20250529_ctrl_overrides.csv"
    path.write_bytes(content)
    with pytest.raises(ContractError, match=words) as caught:
        apply_overrides(table, path=path, flags=FLAGS)
    assert caught.value.where == str(path)
