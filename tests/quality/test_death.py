from __future__ import annotations

from typing import Literal

import numpy as np
import pandas as pd
import pytest

from morphseq_dagster.errors import ContractError
from morphseq_dagster.quality.death import DeathSettings, find_decline_savgol, infer_death

Method = Literal["isotonic", "savgol"]
METHODS: tuple[Method, ...] = ("isotonic", "savgol")

# Golden cases of spec 6.2: fraction alive per half-hour frame, frame at the start of the decline.
GOLDEN = {
    "death": ([1, 1, 1, 1, 0.95, 0.6, 0.2, 0, 0, 0], 3),
    "single dip": ([1, 1, 1, 0.4, 1, 1, 1, 1, 1, 1], None),
    "dip, then death": ([1, 1, 0.4, 1, 1, 1, 1, 0.5, 0.1, 0], 6),
    "linear decline": ([1 - 0.04 * i for i in range(10)], None),
    "only the last frame": ([1, 1, 1, 1, 1, 1, 1, 1, 1, 0], None),
}


def _table(alive: list[float], *, embryo: str = "e01", step_s: float = 1800.0) -> pd.DataFrame:
    n = len(alive)
    return pd.DataFrame(
        {
            "embryo_id": embryo,
            "time_int": range(n),
            "time_s": np.arange(n) * step_s,
            "fraction_alive": alive,
            "predicted_stage_hpf": 24 + np.arange(n) * step_s / 3600,
        }
    )


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", GOLDEN)
def test_golden_cases(method: Method, name: str) -> None:
    alive, start = GOLDEN[name]
    found = infer_death(_table(alive), settings=DeathSettings(method=method))
    if start is None:
        assert found["dead_inflection_time_int"].isna().all()
        assert found["dead_flag2"].tolist() == [False] * 10
    else:
        assert found["dead_inflection_time_int"].tolist() == [start] * 10
        # Four hours of lead are eight frames.
        assert found["dead_flag2"].tolist() == [i >= start - 8 for i in range(10)]
    assert (found["dead_flag2_reason"] == "").all()


@pytest.mark.parametrize("method", METHODS)
def test_lead_time_is_a_parameter(method: Method) -> None:
    alive, _ = GOLDEN["death"]
    found = infer_death(_table(alive), settings=DeathSettings(method=method, lead_h=1.0))
    # Death begins at frame 3, 25.5 hpf; one hour before is frame 1.
    assert found["dead_flag2"].tolist() == [False] + [True] * 9


@pytest.mark.parametrize("method", METHODS)
def test_order_and_index_of_rows_do_not_matter(method: Method) -> None:
    table = pd.concat([_table(GOLDEN["death"][0]), _table(GOLDEN["single dip"][0], embryo="e02")], ignore_index=True)
    want = infer_death(table, settings=DeathSettings(method=method))
    shuffled = table.sample(frac=1, random_state=7)
    got = infer_death(shuffled, settings=DeathSettings(method=method))
    pd.testing.assert_frame_equal(got.sort_index(), want)


@pytest.mark.parametrize("method", METHODS)
def test_missing_fractions_and_repeated_frames_poison_nothing(method: Method) -> None:
    table = _table([*GOLDEN["death"][0], 0.0, 0.0])
    table.loc[[1, 7], "fraction_alive"] = np.nan
    doubled = pd.concat([table, table.iloc[[8]]], ignore_index=True)
    found = infer_death(doubled, settings=DeathSettings(method=method))
    assert set(found["dead_inflection_time_int"]) == {3}
    # A frame without a fraction is flagged by its time like its neighbours.
    assert found["dead_flag2"].tolist() == [True] * 13


@pytest.mark.parametrize("method", METHODS)
def test_no_viability_is_unknown_never_alive_nor_dead(method: Method) -> None:
    found = infer_death(_table([np.nan] * 5), settings=DeathSettings(method=method))
    assert found["dead_flag2"].isna().all()
    assert set(found["dead_flag2_reason"]) == {"viability not measured"}


@pytest.mark.parametrize("method", METHODS)
def test_two_frames_are_too_few_to_tell(method: Method) -> None:
    found = infer_death(_table([1.0, 0.0]), settings=DeathSettings(method=method))
    assert found["dead_flag2"].isna().all()
    assert found["dead_flag2_reason"].iloc[0].startswith("fewer than 3")


def test_isotonic_without_times_is_unknown() -> None:
    table = _table(GOLDEN["death"][0])
    table["time_s"] = np.nan
    found = infer_death(table)
    assert found["dead_flag2"].isna().all()
    assert set(found["dead_flag2_reason"]) == {"too few frames with a time"}


def test_savgol_without_stages_finds_the_frame_but_cannot_lead() -> None:
    table = _table(GOLDEN["death"][0])
    table["predicted_stage_hpf"] = np.nan
    found = infer_death(table, settings=DeathSettings(method="savgol"))
    assert set(found["dead_inflection_time_int"]) == {3}
    assert found["dead_flag2"].isna().all()


def test_isotonic_needs_no_stage_column() -> None:
    table = _table(GOLDEN["death"][0]).drop(columns="predicted_stage_hpf")
    assert set(infer_death(table)["dead_inflection_time_int"]) == {3}
    with pytest.raises(ContractError, match="predicted_stage_hpf"):
        infer_death(table, settings=DeathSettings(method="savgol"))


@pytest.mark.parametrize("step_s", [120.0, 600.0, 1800.0, 3600.0])
def test_isotonic_finds_a_sudden_death_at_any_frame_interval(step_s: float) -> None:
    random = np.random.default_rng(2)
    for death in (30, 60, 100):
        alive = np.r_[np.full(death, 1.0), np.full(140 - death, 0.1)]
        noisy = np.clip(alive + random.normal(0, 0.05, 140), 0, 1)
        found = infer_death(_table(noisy.tolist(), step_s=step_s))["dead_inflection_time_int"].iloc[0]
        assert abs(found - (death - 1)) <= 1


def test_a_stray_dead_frame_shortly_before_death_does_not_move_it() -> None:
    alive = [1.0] * 20 + [0.3] + [1.0] * 6 + [0.0] * 40
    # 40 of the 46 frames after the stray one are dead, more than 80 %: the reference rule takes the bait.
    assert infer_death(_table(alive))["dead_inflection_time_int"].unique().tolist() == [26]
    assert find_decline_savgol(np.arange(len(alive), dtype=float), np.array(alive)) != 26


def test_dead_in_every_frame_dies_at_the_first() -> None:
    found = infer_death(_table([0.0] * 6))
    assert found["dead_inflection_time_int"].tolist() == [0] * 6
    assert found["dead_flag2"].tolist() == [True] * 6


def test_a_healthy_embryo_and_a_dead_neighbour_keep_apart() -> None:
    table = pd.concat([_table([1.0] * 10), _table(GOLDEN["death"][0], embryo="e02")], ignore_index=True)
    found = infer_death(table)
    assert found["dead_flag2"].tolist() == [False] * 10 + [True] * 10


def test_an_empty_table_gives_an_empty_answer_with_its_columns() -> None:
    found = infer_death(_table([]))
    assert list(found.columns) == ["dead_inflection_time_int", "dead_flag2", "dead_flag2_reason"]
    assert len(found) == 0
