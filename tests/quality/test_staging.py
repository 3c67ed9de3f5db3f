from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from morphseq_dagster.errors import ContractError
from morphseq_dagster.quality.staging import (
    TOY_HILL,
    InferredStageSettings,
    StageReference,
    infer_stage,
    predict_stage,
)

USE_TOY = InferredStageSettings(use_toy_reference=True)
AREAS = [450_000.0, 600_000.0, 798_665.3747, 900_000.0, 1_100_000.0]
STAGES = [5.816997, 13.910010, 24.0, 30.207480, 48.534014]


def _plate(age: object, seconds: object, degrees: object) -> pd.DataFrame:
    return pd.DataFrame({"start_age_hpf": [age], "Time Rel (s)": [seconds], "temperature": [degrees]}, dtype=object)


@pytest.mark.parametrize(
    ("degrees", "rate"),
    [(24, 0.75), (28, 0.97), (28.5, 0.9975), (30, 1.08), (32, 1.19), (34, 1.3), (35, 1.355)],
)
def test_rate_of_development(degrees: float, rate: float) -> None:
    found = predict_stage(_plate("24", 7200.0, degrees))
    assert found["predicted_stage_hpf"].iloc[0] == pytest.approx(24 + 2 * rate)
    assert found["predicted_stage_hpf_reason"].iloc[0] == ""


@pytest.mark.parametrize(
    ("age", "seconds", "degrees", "reason"),
    [
        ("shield", 0.0, 28.5, "start age is text: shield"),
        (None, 0.0, 28.5, "no start age"),
        (np.nan, 0.0, 28.5, "no start age"),
        ("", 0.0, 28.5, "no start age"),
        (pd.NA, 0.0, 28.5, "no start age"),
        (24.0, np.nan, 28.5, "no time"),
        (24.0, 0.0, np.nan, "no temperature"),
        (24.0, 0.0, None, "no temperature"),
        (24.0, 0.0, 10.0, "no development at 10 degC"),
        ("nan", 0.0, 28.5, "start age is text: nan"),
        (np.inf, 0.0, 28.5, "no start age"),
    ],
)
def test_what_is_missing_makes_the_stage_unknown_with_its_reason(
    age: object, seconds: object, degrees: object, reason: str
) -> None:
    found = predict_stage(_plate(age, seconds, degrees))
    assert np.isnan(found["predicted_stage_hpf"].iloc[0])
    assert found["predicted_stage_hpf_reason"].iloc[0] == reason


def test_missing_columns_are_named_at_once() -> None:
    with pytest.raises(ContractError, match=r"no Time Rel \(s\), temperature"):
        predict_stage(pd.DataFrame({"start_age_hpf": []}))


def test_hill_inverse_undoes_the_curve() -> None:
    stage = np.linspace(0, 120, 50)
    assert TOY_HILL.stage_hpf(TOY_HILL.area_um2(stage)) == pytest.approx(stage, abs=1e-9)
    outside = TOY_HILL.stage_hpf(np.array([399_000.0, 1_399_649.0, np.nan]))
    assert np.isnan(outside).all()


def test_hill_curve_reproduces_the_reference_table_and_its_parameters(shared: Path) -> None:
    table = pd.read_csv(shared / "reference" / "stage_ref_df.csv")
    assert TOY_HILL.area_um2(table["stage_hpf"].to_numpy()) == pytest.approx(table["sa_um"].to_numpy(), abs=1e-9)
    (numbers,) = pd.read_csv(shared / "reference" / "stage_ref_params.csv").to_numpy()
    assert numbers.tolist() == [
        TOY_HILL.offset_um2,
        TOY_HILL.sa_max_um2,
        TOY_HILL.exponent,
        TOY_HILL.half_hpf,
    ]


def test_interpolation_golden_numbers(shared: Path) -> None:
    reference = StageReference.from_table(pd.read_csv(shared / "reference" / "stage_ref_df.csv"))
    assert reference.interpolate(np.array(AREAS)) == pytest.approx(np.array(STAGES), abs=1e-4)
    assert np.isnan(reference.interpolate(np.array([390_000.0, 1_287_446.5]))).all()


def _reference(scale: float = 1.0) -> StageReference:
    stage = np.arange(97.0)
    return StageReference.from_table(pd.DataFrame({"sa_um": TOY_HILL.area_um2(stage) * scale, "stage_hpf": stage}))


def _embryos(areas: list[float], **columns: object) -> pd.DataFrame:
    n = len(areas)
    table = pd.DataFrame(
        {
            "embryo_id": [f"e{i:02d}" for i in range(n)],
            "time_int": 0,
            "surface_area_um": areas,
            "predicted_stage_hpf": 24.0,
            "phenotype": pd.array([None] * n, dtype="str"),
            "control_flag": pd.array([None] * n, dtype="boolean"),
            "mask_target": "body",
        }
    )
    return table.assign(**columns)


def test_the_public_reference_is_recognised_and_not_used_unless_asked() -> None:
    toy = _reference()
    assert toy.is_toy
    assert toy.reference_id.startswith("toy-")
    found = infer_stage(_embryos(AREAS), reference=toy)
    assert found["inferred_stage_hpf"].isna().all()
    assert set(found["inferred_stage_hpf_reason"]) == {"only the public one-embryo reference, which is no biology"}
    asked = infer_stage(_embryos(AREAS), reference=toy, settings=USE_TOY)
    assert asked["inferred_stage_hpf"].to_numpy() == pytest.approx(np.array(STAGES), abs=1e-2)
    assert set(asked["stage_reference_id"]) == {toy.reference_id}


def test_a_laboratory_reference_is_used_and_named() -> None:
    own = _reference(1.1)
    assert not own.is_toy
    found = infer_stage(_embryos([a * 1.1 for a in AREAS]), reference=own)
    assert found["inferred_stage_hpf"].to_numpy() == pytest.approx(np.array(STAGES), abs=1e-2)
    assert set(found["stage_reference_id"]) == {own.reference_id}
    assert own.reference_id.startswith("lab-")


def test_no_reference_means_unknown() -> None:
    found = infer_stage(_embryos(AREAS), reference=None)
    assert found["inferred_stage_hpf"].isna().all()
    assert found["stage_reference_id"].isna().all()
    assert set(found["inferred_stage_hpf_reason"]) == {"no stage reference"}


def test_chorion_areas_are_not_staged() -> None:
    found = infer_stage(_embryos([450_000.0 * 1.1] * 2, mask_target=["chorion", "body"]), reference=_reference(1.1))
    assert found["inferred_stage_hpf"].isna().tolist() == [True, False]


def test_a_series_follows_its_reference_embryos_also_for_the_others() -> None:
    own = _reference(1.1)
    clock = np.arange(24.0, 36.0)
    # Everybody's clock runs an hour ahead of the reference: stage = 1 + clock.
    area = TOY_HILL.area_um2(clock + 1.0) * 1.1
    wild = _embryos(area.tolist(), embryo_id="e01", time_int=range(12), predicted_stage_hpf=clock, phenotype="wt")
    other = wild.assign(embryo_id="e02", phenotype="mutant", surface_area_um=np.nan)
    found = infer_stage(pd.concat([wild, other], ignore_index=True), reference=own)
    assert found["inferred_stage_hpf"].to_numpy() == pytest.approx(np.r_[clock, clock] + 1.0, abs=0.05)


@pytest.mark.parametrize("text", ["str", "string"])
def test_embryos_of_unknown_control_flag_and_phenotype_are_no_reference(text: str) -> None:
    own = _reference(1.1)
    clock = np.arange(24.0, 36.0)
    area = TOY_HILL.area_um2(clock + 1.0) * 1.1
    control = _embryos(area.tolist(), embryo_id="e01", time_int=range(12), predicted_stage_hpf=clock)
    control = control.assign(control_flag=pd.array([True] * 12, dtype="boolean"))
    # Half as large again, and nobody says what they are: as references they would set the clock forward.
    other = _embryos((area * 1.5).tolist(), embryo_id="e02", time_int=range(12), predicted_stage_hpf=clock)
    table = pd.concat([control, other], ignore_index=True).astype({"phenotype": text})
    found = infer_stage(table, reference=own)
    assert found["inferred_stage_hpf"].to_numpy() == pytest.approx(np.r_[clock, clock] + 1.0, abs=0.05)


def test_a_series_without_reference_embryos_is_unknown() -> None:
    clock = np.arange(24.0, 30.0)
    table = _embryos([5e5] * 6, embryo_id="e01", time_int=range(6), predicted_stage_hpf=clock)
    found = infer_stage(table, reference=_reference(1.1))
    assert found["inferred_stage_hpf"].isna().all()
    assert found["inferred_stage_hpf_reason"].iloc[0].startswith("no reference embryos")


def test_a_falling_reference_is_refused() -> None:
    with pytest.raises(ContractError, match="rises strictly"):
        StageReference.from_table(pd.DataFrame({"sa_um": [2.0, 1.0], "stage_hpf": [0.0, 1.0]}))
