"""The perturbation key: joined in memory, what it lacks is listed, nothing known is overwritten."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from morphseq_dagster.errors import PermanentError
from morphseq_dagster.plate.perturbation_key import KEY_COLUMNS, join_perturbations, read_perturbation_key

HEADING = "master_perturbation,short_pert_name,phenotype,control_flag,pert_type,background\n"
KEY = (
    HEADING
    + "wt_wik,wt_wik,wt,True,background,\nDMSO_1,DMSO,DMSO,TRUE,chem,unknown\nlmx1b_ab,lmx1b_ab,lmx1b,false,,ab\n"
)


def key_file(tmp_path: Path, text: str = KEY) -> Path:
    path = tmp_path / "key.csv"
    path.write_text(text)
    return path


def wells(genotypes: list[str | None], chemicals: list[str | None] | None = None, **more: list[object]) -> pd.DataFrame:
    return pd.DataFrame({"genotype": genotypes, "chem_perturbation": chemicals or [None] * len(genotypes), **more})


def test_chemical_wins_over_genotype_unless_blank_or_none(tmp_path: Path) -> None:
    table = wells(["wt_wik"] * 4 + [None], ["DMSO_1", "None", " ", None, None])
    joined = join_perturbations(table, key=read_perturbation_key(key_file(tmp_path))).table
    assert joined["master_perturbation"].tolist()[:4] == ["DMSO_1", "wt_wik", "wt_wik", "wt_wik"]
    assert joined["phenotype"].tolist()[:4] == ["DMSO", "wt", "wt", "wt"]
    assert joined.iloc[4][["master_perturbation", *KEY_COLUMNS]].isna().all()
    assert joined["control_flag"].dtype == "boolean"


def test_blank_background_is_null_and_unknown_stays_text(tmp_path: Path) -> None:
    key = read_perturbation_key(key_file(tmp_path))
    assert [entry.background for entry in key] == [None, "unknown", "ab"]
    assert [entry.control_flag for entry in key] == [True, True, False]
    assert key[2].pert_type is None


def test_key_without_background_column_is_read(tmp_path: Path) -> None:
    text = "master_perturbation,short_pert_name,phenotype,control_flag,pert_type\nwik,wik,wt,1,background\n"
    joined = join_perturbations(wells(["wik"]), key=read_perturbation_key(key_file(tmp_path, text))).table
    assert joined["background"].isna().all()
    assert joined["control_flag"].tolist() == [True]


def test_unmatched_masters_are_listed_once_and_their_rows_stay_null(tmp_path: Path) -> None:
    path = key_file(tmp_path)
    before = path.read_bytes()
    result = join_perturbations(wells(["zzz", "atf6", "zzz", "wt_wik"]), key=read_perturbation_key(path))
    assert result.unmatched == ("atf6", "zzz")
    assert result.table["control_flag"].isna().tolist() == [True, True, True, False]
    assert len(result.table) == 4
    assert path.read_bytes() == before


def test_without_a_key_masters_are_known_and_the_rest_is_null() -> None:
    result = join_perturbations(wells(["wik", None]), key=None)
    assert result.unmatched == ("wik",)
    assert result.table["master_perturbation"].tolist()[0] == "wik"
    assert result.table[list(KEY_COLUMNS)].isna().all(axis=None)


def test_naming_rule_is_off_by_default_and_finds_strains_when_on(tmp_path: Path) -> None:
    key = read_perturbation_key(key_file(tmp_path))
    table = wells(["wik", "lmx1b", "lmx1b"], [None, None, "lmx1b"], background=["", "ab", "ab"])
    assert join_perturbations(table, key=key).unmatched == ("lmx1b", "wik")
    result = join_perturbations(table, key=key, naming="phenotype_background")
    assert result.table["master_perturbation"].tolist() == ["wt_wik", "lmx1b_ab", "lmx1b"]
    # The third row's name is a chemical, to which strains do not apply.
    assert result.unmatched == ("lmx1b",)


def test_values_of_the_table_are_kept_and_conflicts_named(tmp_path: Path) -> None:
    table = wells(["wt_wik", "wt_wik"], phenotype=["uncertain", None], control_flag=["False", None])
    table.index = pd.Index(["A01", "A02"])
    before = table.copy()
    result = join_perturbations(table, key=read_perturbation_key(key_file(tmp_path)))
    assert result.table["phenotype"].tolist() == ["uncertain", "wt"]
    assert result.table["control_flag"].tolist() == [False, True]
    assert result.conflicts == (
        "A01 phenotype: 'uncertain', key says 'wt'",
        "A01 control_flag: False, key says True",
    )
    pd.testing.assert_frame_equal(table, before)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", "no table"),
        (
            "master_perturbation,phenotype\na,b\n",
            "short_pert_name missing; column control_flag missing; column pert_type",
        ),
        (
            HEADING + "a,a,a,True,,\na,b,b,maybe,,\n,c,c,True,,\n",
            "repeats 'a' of line 2.*'maybe'.*line 4 has no master",
        ),
    ],
)
def test_bad_keys_are_errors_that_name_everything(tmp_path: Path, text: str, found: str) -> None:
    with pytest.raises(PermanentError, match=found):
        read_perturbation_key(key_file(tmp_path, text))


def test_missing_key_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(PermanentError, match="No such file"):
        read_perturbation_key(tmp_path / "none.csv")


def test_real_key_is_read_whole(shared: Path) -> None:
    key = read_perturbation_key(shared / "reference" / "perturbation_name_key.csv")
    assert len(key) == 51
    assert sum(entry.control_flag is True for entry in key) == 5
    typed = [entry for entry in key if entry.pert_type == "CRISPR"]
    assert [(entry.master_perturbation, entry.background) for entry in typed] == [("atf6", "wik")]
    result = join_perturbations(wells(["atf6", "wik", "ab"]), key=key, naming="phenotype_background")
    assert result.table["phenotype"].notna().tolist()[0]
