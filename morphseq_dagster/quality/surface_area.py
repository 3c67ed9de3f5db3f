"""Surface-area outliers against a reference curve of area over stage (spec 6.3a).

A missing reference makes the flag unknown; the fallbacks of older versions (spec 6.3b, c) are left out.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from morphseq_dagster.errors import ContractError
from morphseq_dagster.morphometry.columns import require_columns
from morphseq_dagster.quality.parameters import SurfaceAreaSettings
from morphseq_dagster.quality.tri_state import TriStateFlag, unknown, verdict_columns

DEFAULT_SURFACE_AREA = SurfaceAreaSettings()

CURVE_COLUMNS = ("stage_hpf", "p5", "p95")


@dataclass(frozen=True, eq=False)
class SurfaceAreaCurve:
    """Percentiles `(N,)` of the area of reference embryos in um2 over rising stages in h."""

    stage_hpf: NDArray[np.float64]
    p5_um2: NDArray[np.float64]
    p95_um2: NDArray[np.float64]

    @classmethod
    def from_table(cls, table: pd.DataFrame) -> SurfaceAreaCurve:
        """Take the curve from columns `stage_hpf` (h), `p5`, `p95` (um2).

        Raises
        ------
        ContractError
            For missing columns, missing or non-positive numbers, repeated stages or crossed percentiles; all
            problems are named at once.
        """
        missing = [name for name in CURVE_COLUMNS if name not in table.columns]
        problems = [f"no column {name}" for name in missing]
        if not missing:
            ordered = table.sort_values("stage_hpf", kind="stable")
            stage, low, high = (ordered[name].to_numpy(dtype=np.float64) for name in CURVE_COLUMNS)
            values = np.stack([stage, low, high])
            if values.shape[1] < 2:
                problems.append("fewer than two rows")
            elif not np.isfinite(values).all():
                problems.append("missing numbers")
            else:
                if (np.diff(stage) <= 0).any():
                    problems.append("repeated stages")
                if (values[1:] <= 0).any():
                    problems.append("areas that are not positive")
                if (low > high).any():
                    problems.append("p5 above p95")
            if not problems:
                return cls(stage, low, high)
        raise ContractError(
            expected="columns stage_hpf, p5, p95 with rising stages and positive areas",
            found="; ".join(problems),
            where="surface-area reference",
            remedy="correct the reference table, or remove it to leave the flag unknown",
        )


def flag_surface_area(
    table: pd.DataFrame, *, curve: SurfaceAreaCurve | None, settings: SurfaceAreaSettings = DEFAULT_SURFACE_AREA
) -> pd.DataFrame:
    """Flag embryos too large or too small for their stage.

    Parameters
    ----------
    table
        Columns `surface_area_um` (um2, the contract's name), `predicted_stage_hpf` (h) and `mask_target` ("body"
        or "chorion", missing = unknown).
    curve
        Reference, or None. Stages beyond it are compared with its ends (spec 6.3a).

    Returns
    -------
    DataFrame
        Index of `table`; `sa_outlier_flag` (nullable boolean), `sa_outlier_flag_reason` (str),
        `sa_lower_limit_um2`, `sa_upper_limit_um2` (float, missing where nothing was compared).

    Raises
    ------
    ContractError
        When columns are missing.
    """
    needed = ("surface_area_um", "predicted_stage_hpf", "mask_target")
    require_columns(table, needed)
    area = table["surface_area_um"].to_numpy(dtype=np.float64, na_value=np.nan)
    stage = table["predicted_stage_hpf"].to_numpy(dtype=np.float64, na_value=np.nan)
    if curve is None:
        lower = upper = np.full(len(table), np.nan)
    else:
        lower = settings.k_lower * np.interp(stage, curve.stage_hpf, curve.p5_um2)
        upper = settings.k_upper * np.interp(stage, curve.stage_hpf, curve.p95_um2)
    verdicts = [
        _judge(a, s, low, high, target=target, has_curve=curve is not None)
        for a, s, low, high, target in zip(area, stage, lower, upper, table["mask_target"], strict=True)
    ]
    columns = verdict_columns(verdicts, name="sa_outlier_flag", index=table.index)
    compared = columns["sa_outlier_flag"].notna().to_numpy()
    columns["sa_lower_limit_um2"] = np.where(compared, lower, np.nan)
    columns["sa_upper_limit_um2"] = np.where(compared, upper, np.nan)
    return columns


def _judge(area: float, stage: float, low: float, high: float, *, target: object, has_curve: bool) -> TriStateFlag:
    if target == "chorion":
        return unknown("the mask is of the chorion")
    if target != "body":
        return unknown("the mask's target is not known")
    if not has_curve:
        return unknown("no surface-area reference")
    if not np.isfinite(area):
        return unknown("no surface area")
    if not np.isfinite(stage):
        return unknown("no predicted stage")
    return TriStateFlag(bool(area > high or area < low))
