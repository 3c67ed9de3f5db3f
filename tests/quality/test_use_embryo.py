from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from morphseq_dagster.errors import ContractError
from morphseq_dagster.quality.use_embryo import POLICIES, PolicyName, UseEmbryoSettings, decide_use

ALL_FLAGS = sorted({flag for flags in POLICIES.values() for flag in flags})


def _row(**raised: object) -> pd.DataFrame:
    return pd.DataFrame({name: pd.array([raised.get(name, False)], dtype="boolean") for name in ALL_FLAGS})


@pytest.mark.parametrize("policy", POLICIES)
def test_every_flag_of_a_policy_excludes_and_no_other(policy: PolicyName) -> None:
    for flag in ALL_FLAGS:
        found = decide_use(_row(**{flag: True}), settings=UseEmbryoSettings(policy=policy))
        excluded = flag in POLICIES[policy]
        assert bool(found["use_embryo_flag"].iloc[0]) is not excluded
        assert found["use_embryo_reason"].iloc[0] == (f"excluded: {flag}" if excluded else "")


def test_default_is_the_newest_rule() -> None:
    assert POLICIES[UseEmbryoSettings().policy] == (
        "dead_flag",
        "dead_flag2",
        "sa_outlier_flag",
        "sam2_qc_flag",
    )


def test_unknown_flags_never_exclude_and_are_named() -> None:
    found = decide_use(_row(dead_flag=pd.NA, dead_flag2=pd.NA))
    assert found["use_embryo_flag"].tolist() == [True]
    assert found["use_embryo_reason"].tolist() == ["unknown: dead_flag, dead_flag2"]
    both = decide_use(_row(sam2_qc_flag=True, dead_flag=pd.NA, sa_outlier_flag=True))
    assert both["use_embryo_reason"].tolist() == ["excluded: sa_outlier_flag, sam2_qc_flag; unknown: dead_flag"]


@pytest.mark.parametrize("blank", [np.nan, None, pd.NA])
def test_a_blank_from_a_file_is_not_true(blank: object) -> None:
    table = _row().astype(object)
    table["dead_flag"] = pd.Series([blank], dtype=object)
    found = decide_use(table)
    assert found["use_embryo_flag"].tolist() == [True]
    assert found["use_embryo_reason"].tolist() == ["unknown: dead_flag"]


def test_an_absent_column_is_unknown_in_every_row() -> None:
    found = decide_use(_row().drop(columns="sa_outlier_flag"))
    assert found["use_embryo_reason"].tolist() == ["unknown: sa_outlier_flag"]


def test_the_surface_area_alone_can_be_ignored_but_not_beside_another() -> None:
    lenient = UseEmbryoSettings(ignore_sa_outlier_alone=True)
    alone = decide_use(_row(sa_outlier_flag=True), settings=lenient)
    assert alone["use_embryo_flag"].tolist() == [True]
    assert alone["use_embryo_reason"].tolist() == ["ignored: sa_outlier_flag"]
    beside = decide_use(_row(sa_outlier_flag=True, dead_flag=True), settings=lenient)
    assert beside["use_embryo_flag"].tolist() == [False]


def test_every_broken_column_is_named() -> None:
    table = _row().astype(object)
    table["dead_flag"] = "perhaps"
    table["sam2_qc_flag"] = 7
    with pytest.raises(ContractError, match="dead_flag, sam2_qc_flag"):
        decide_use(table)
