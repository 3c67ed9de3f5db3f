"""Developmental stage from the clock and, labelled as an extra, from the surface area (spec 5.2, 6.6).

The public stage reference is no biology: a Hill curve fitted to one embryo reproduces it (spec, finding 1). It is
recognised here, and stages are not inferred from it unless asked for by name.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from numbers import Real

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.optimize import lsq_linear

from morphseq_dagster.errors import ContractError
from morphseq_dagster.morphometry.columns import require_columns
from morphseq_dagster.quality.parameters import InferredStageSettings, PredictedStageSettings

Floats = NDArray[np.float64]
_TABLE = "table to be staged"


DEFAULT_PREDICTED = PredictedStageSettings()
DEFAULT_INFERRED = InferredStageSettings()


def predict_stage(table: pd.DataFrame, *, settings: PredictedStageSettings = DEFAULT_PREDICTED) -> pd.DataFrame:
    """Stage from start age, elapsed time and temperature.

    `start_age_hpf + hours * (rate_per_c * temperature + rate_at_zero_c)`; at 28.5 degC an hour counts 0.9975 h.

    Parameters
    ----------
    table
        Columns `start_age_hpf` (h; text that is no number names a morphological start), `Time Rel (s)` (s),
        `temperature` (degC).

    Returns
    -------
    DataFrame
        Index of `table`; `predicted_stage_hpf` (float, h) and `predicted_stage_hpf_reason` (str, empty where
        known). A development that would run backwards (below 10.36 degC) is unknown too.

    Raises
    ------
    ContractError
        When columns are missing.
    """
    require_columns(table, ("start_age_hpf", "Time Rel (s)", "temperature"), where=_TABLE)
    stages, reasons = [], []
    for age, seconds, degrees in zip(table["start_age_hpf"], table["Time Rel (s)"], table["temperature"], strict=True):
        stage, reason = _predict_one(age, seconds, degrees, settings=settings)
        stages.append(stage)
        reasons.append(reason)
    return pd.DataFrame(
        {
            "predicted_stage_hpf": np.array(stages, dtype=np.float64),
            "predicted_stage_hpf_reason": pd.array(reasons, dtype="str"),
        },
        index=table.index,
    )


def _predict_one(
    age: object, seconds: object, degrees: object, *, settings: PredictedStageSettings
) -> tuple[float, str]:
    start = _number(age)
    if start is None:
        text = "" if age is None or age is pd.NA or isinstance(age, float) else str(age).strip()
        return math.nan, f"start age is text: {text}" if text else "no start age"
    elapsed = _number(seconds)
    if elapsed is None:
        return math.nan, "no time"
    temperature = _number(degrees)
    if temperature is None:
        return math.nan, "no temperature"
    rate = settings.rate_per_c * temperature + settings.rate_at_zero_c
    if rate < 0:
        return math.nan, f"no development at {temperature:g} degC"
    return start + elapsed / 3600.0 * rate, ""


def _number(value: object) -> float | None:
    """Read a number from a cell; None for blanks, text and values that are not finite."""
    if isinstance(value, bool) or value is None or value is pd.NA:
        return None
    if isinstance(value, Real):
        number = float(value)
    elif isinstance(value, str):
        try:
            number = float(value)
        except ValueError:
            return None
    else:
        return None
    return number if math.isfinite(number) else None


@dataclass(frozen=True)
class HillCurve:
    """Area over stage as a Hill curve, `offset + sa_max t^n / (k^n + t^n)`; n is the exponent, growth is half at k."""

    offset_um2: float
    sa_max_um2: float
    exponent: float
    half_hpf: float

    def area_um2(self, stage_hpf: Floats) -> Floats:
        """Area at stages `(N,)`, um2."""
        power = np.power(stage_hpf, self.exponent)
        return np.asarray(self.offset_um2 + self.sa_max_um2 * power / (self.half_hpf**self.exponent + power))

    def stage_hpf(self, area_um2: Floats) -> Floats:
        """Stage at areas `(N,)`, h; NaN outside the curve's open range of areas."""
        grown = np.asarray(area_um2, dtype=np.float64) - self.offset_um2
        inside = (grown >= 0) & (grown < self.sa_max_um2)
        share = np.where(inside, grown, 0.0) / np.where(inside, self.sa_max_um2 - grown, 1.0)
        return np.where(inside, self.half_hpf * np.power(share, 1.0 / self.exponent), np.nan)


#: The public reference: all four numbers follow from one embryo at 30 hpf (spec, finding 1).
TOY_HILL = HillCurve(399860.5736062246, 999787.7465189137, 1.7877121771655091, 30.188168811144394)


@dataclass(frozen=True, eq=False)
class StageReference:
    """Area over stage, both `(N,)` strictly rising, from a table.

    Attributes
    ----------
    reference_id
        "toy-" or "lab-" and the start of a hash of the numbers; goes beside every inferred stage.
    """

    reference_id: str
    stage_hpf: Floats
    area_um2: Floats
    is_toy: bool

    @classmethod
    def from_table(cls, table: pd.DataFrame) -> StageReference:
        """Take the curve from columns `sa_um` (um2) and `stage_hpf` (h).

        Raises
        ------
        ContractError
            For missing columns or numbers and for areas that do not rise with stage.
        """
        require_columns(table, ("sa_um", "stage_hpf"), where=_TABLE)
        ordered = table.sort_values("stage_hpf", kind="stable")
        stage, area = (ordered[name].to_numpy(dtype=np.float64) for name in ("stage_hpf", "sa_um"))
        values = np.stack([stage, area])
        if stage.size < 2 or not np.isfinite(values).all() or (np.diff(values, axis=1) <= 0).any():
            raise ContractError(
                expected="at least two rows whose area rises strictly with stage, without blanks",
                found=f"{stage.size} rows that do not",
                where="stage reference",
                remedy="correct the reference table, or remove it to leave inferred stages unknown",
            )
        toy = bool(np.allclose(area, TOY_HILL.area_um2(stage), rtol=1e-6, atol=0.0))
        digest = hashlib.sha256(np.ascontiguousarray(values, dtype="<f8").tobytes()).hexdigest()[:12]
        return cls(f"{'toy' if toy else 'lab'}-{digest}", stage, area, toy)

    def interpolate(self, area_um2: Floats) -> Floats:
        """Stage at areas `(N,)` by linear interpolation, h; NaN outside the curve."""
        return np.asarray(np.interp(area_um2, self.area_um2, self.stage_hpf, left=np.nan, right=np.nan))


def infer_stage(
    table: pd.DataFrame, *, reference: StageReference | None, settings: InferredStageSettings = DEFAULT_INFERRED
) -> pd.DataFrame:
    """Stage from the surface area: an extra beside the predicted stage, never in its place.

    A snapshot (each embryo once) is read off the curve. A series is fitted: per cohort and rounded stage the
    high percentile of the reference embryos' areas gives a stage, and `a + b t + c t^2` (with a cohort term
    when there are several), bounded, predicts all rows (spec 6.6). Reference embryos are those with
    `control_flag` True or phenotype `wt`, bodies only.

    Parameters
    ----------
    table
        `embryo_id`, `time_int`, `surface_area_um` (um2), `predicted_stage_hpf` (h), `phenotype`, `control_flag`
        (nullable), `mask_target`.
    reference
        Curve, or None.

    Returns
    -------
    DataFrame
        Index of `table`; `inferred_stage_hpf` (float, h, NaN = unknown), `inferred_stage_hpf_reason` (str),
        `stage_reference_id` (str, missing without a reference).

    Raises
    ------
    ContractError
        When columns are missing.
    """
    require_columns(
        table,
        (
            "embryo_id",
            "time_int",
            "surface_area_um",
            "predicted_stage_hpf",
            "phenotype",
            "control_flag",
            "mask_target",
        ),
        where=_TABLE,
    )
    blocked = _blocked(reference, settings=settings)
    stage = np.full(len(table), np.nan)
    reasons = [blocked] * len(table)
    if reference is not None and not blocked and len(table):
        body = (table["mask_target"] == "body").fillna(False).to_numpy(dtype=bool)
        area = table["surface_area_um"].to_numpy(dtype=np.float64, na_value=np.nan)
        area = np.where(body, area, np.nan)
        if table["embryo_id"].duplicated().any():
            stage, why = _fit_series(table, area=area, reference=reference, settings=settings)
        else:
            stage, why = reference.interpolate(area), "no body area, or outside the reference"
        reasons = ["" if np.isfinite(value) else why for value in stage]
    return pd.DataFrame(
        {
            "inferred_stage_hpf": stage,
            "inferred_stage_hpf_reason": pd.array(reasons, dtype="str"),
            "stage_reference_id": pd.array(
                [None if reference is None else reference.reference_id] * len(table), dtype="str"
            ),
        },
        index=table.index,
    )


def _blocked(reference: StageReference | None, *, settings: InferredStageSettings) -> str:
    if reference is None:
        return "no stage reference"
    if reference.is_toy and not settings.use_toy_reference:
        return "only the public one-embryo reference, which is no biology"
    return ""


def _fit_series(
    table: pd.DataFrame, *, area: Floats, reference: StageReference, settings: InferredStageSettings
) -> tuple[Floats, str]:
    stage = table["predicted_stage_hpf"].to_numpy(dtype=np.float64, na_value=np.nan)
    rows = pd.DataFrame({"embryo": table["embryo_id"].to_numpy(), "time": table["time_int"].to_numpy(), "stage": stage})
    first = rows.sort_values("time", kind="stable").groupby("embryo")["stage"].first()
    width = settings.cohort_width_h
    cohort = (rows["embryo"].map(first) / width).round().to_numpy(dtype=np.float64) * width
    control = table["control_flag"].fillna(False).astype(bool).to_numpy()
    wild = control | (table["phenotype"] == "wt").fillna(False).to_numpy(dtype=bool)
    usable = wild & np.isfinite(area) & np.isfinite(stage) & np.isfinite(cohort)
    nothing = np.full(len(table), np.nan)
    if not usable.any():
        return nothing, "no reference embryos (control or wt) with area and stage"
    bins = pd.DataFrame({"hour": np.round(stage), "cohort": cohort, "area": area})[usable]
    high = bins.groupby(["hour", "cohort"])["area"].quantile(settings.area_percentile / 100.0).reset_index()
    high["inferred"] = reference.interpolate(high["area"].to_numpy(dtype=np.float64))
    high = high[high["inferred"].notna()]
    cohorts = high["cohort"].nunique()
    terms = 4 if cohorts > 1 else 3
    if len(high) < terms:
        return nothing, "too few hours with reference embryos inside the reference curve"
    # The model is linear in its coefficients, so bounded linear least squares finds the exact optimum.
    curve = 1e-5 if cohorts > 1 else 5e-3
    fit = lsq_linear(
        _design(high["hour"].to_numpy(dtype=np.float64), high["cohort"].to_numpy(np.float64), terms=terms),
        high["inferred"].to_numpy(dtype=np.float64),
        bounds=([0.0, 0.5, -curve, -72.0][:terms], [4.0, 2.0, curve, 72.0][:terms]),
    )
    # Not a product of a linear algebra library, whose last digits change with the number of threads.
    return np.asarray((_design(stage, cohort, terms=terms) * fit.x).sum(axis=1)), "no predicted stage"


def _design(stage: Floats, cohort: Floats, *, terms: int) -> Floats:
    return np.stack([np.ones_like(stage), stage, stage**2, cohort][:terms], axis=1)
