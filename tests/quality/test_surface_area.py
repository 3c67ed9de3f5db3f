from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from morphseq_dagster.errors import ContractError
from morphseq_dagster.quality.surface_area import SurfaceAreaCurve, SurfaceAreaSettings, flag_surface_area

CURVE = SurfaceAreaCurve.from_table(
    pd.DataFrame({"stage_hpf": [20.0, 10.0], "p5": [200.0, 100.0], "p95": [400.0, 300.0]})
)


def _table(areas: list[float | None], stages: list[float | None], target: str | None = "body") -> pd.DataFrame:
    return pd.DataFrame(
        {
            "surface_area_um": pd.array(areas, dtype="Float64"),
            "predicted_stage_hpf": pd.array(stages, dtype="Float64"),
            "mask_target": target,
        }
    )


def test_limits_by_hand_with_the_defaults() -> None:
    # At 15 h: p5 150, p95 350 -> limits 105 and 490.
    found = flag_surface_area(_table([104.9, 105.1, 489.9, 490.1], [15.0] * 4), curve=CURVE)
    assert found["sa_lower_limit_um2"].tolist() == pytest.approx([105.0] * 4)
    assert found["sa_upper_limit_um2"].tolist() == pytest.approx([490.0] * 4)
    assert found["sa_outlier_flag"].tolist() == [True, False, False, True]


def test_stages_beyond_the_curve_are_compared_with_its_ends() -> None:
    found = flag_surface_area(_table([150.0, 150.0], [0.0, 99.0]), curve=CURVE)
    assert found["sa_lower_limit_um2"].tolist() == pytest.approx([70.0, 140.0])


def test_unknown_inputs_give_unknown_flags_with_reasons() -> None:
    found = flag_surface_area(_table([None, 1.0], [15.0, None]), curve=CURVE)
    assert found["sa_outlier_flag"].isna().all()
    assert found["sa_outlier_flag_reason"].tolist() == ["no surface area", "no predicted stage"]
    assert found[["sa_lower_limit_um2", "sa_upper_limit_um2"]].isna().all().all()
    missing = flag_surface_area(_table([1.0], [15.0]), curve=None)
    assert missing["sa_outlier_flag"].isna().all()
    assert missing["sa_outlier_flag_reason"].tolist() == ["no surface-area reference"]


def test_chorions_are_never_compared() -> None:
    for target, reason in (("chorion", "the mask is of the chorion"), (None, "the mask's target is not known")):
        found = flag_surface_area(_table([1.0], [15.0], target), curve=CURVE)
        assert found["sa_outlier_flag"].isna().all()
        assert found["sa_outlier_flag_reason"].tolist() == [reason]


@pytest.mark.parametrize(
    ("stage", "old", "new"),
    [
        (18, (437, 832), (340, 971)),
        (24, (451, 1101), (351, 1285)),
        (30, (589, 1279), (458, 1492)),
        (36, (656, 1302), (510, 1519)),
        (48, (806, 1602), (627, 1869)),
        (72, (908, 1989), (706, 2321)),
    ],
)
def test_limits_of_the_reference_table(shared: Path, stage: float, old: tuple[int, int], new: tuple[int, int]) -> None:
    curve = SurfaceAreaCurve.from_table(pd.read_csv(shared / "reference" / "sa_reference_curves.csv"))
    for settings, want in ((SurfaceAreaSettings(k_upper=1.2, k_lower=0.9), old), (SurfaceAreaSettings(), new)):
        found = flag_surface_area(_table([1e6], [stage]), curve=curve, settings=settings)
        limits = found[["sa_lower_limit_um2", "sa_upper_limit_um2"]].to_numpy()[0] / 1000
        assert np.rint(limits).tolist() == list(want)


def test_reference_table_grid(shared: Path) -> None:
    curve = SurfaceAreaCurve.from_table(pd.read_csv(shared / "reference" / "sa_reference_curves.csv"))
    assert (curve.stage_hpf[0], curve.stage_hpf[-1], curve.stage_hpf.size) == (0.25, 129.25, 259)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"p5": [1.0, np.nan]}, "missing numbers"),
        ({"p5": [500.0, 100.0]}, "p5 above p95"),
        ({"stage_hpf": [10.0, 10.0]}, "repeated stages"),
        ({"p5": [0.0, 1.0]}, "not positive"),
    ],
)
def test_a_broken_reference_is_refused(change: dict[str, list[float]], problem: str) -> None:
    table = pd.DataFrame({"stage_hpf": [10.0, 20.0], "p5": [100.0, 200.0], "p95": [300.0, 400.0]} | change)
    with pytest.raises(ContractError, match=problem):
        SurfaceAreaCurve.from_table(table)


def test_every_missing_column_of_a_reference_is_named() -> None:
    with pytest.raises(ContractError, match="no column p5; no column p95"):
        SurfaceAreaCurve.from_table(pd.DataFrame({"stage_hpf": [1.0]}))
