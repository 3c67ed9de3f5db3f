"""Quality and stage (build04): which rows are used, and why; unknown never excludes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from morphseq_dagster.errors import ContractError
from morphseq_dagster.morphseq.contracts.embryo_metadata import CONTRACT as EMBRYOS
from morphseq_dagster.morphseq.contracts.qc_staged import CONTRACT
from morphseq_dagster.morphseq.contracts.snips import RefusedSnip, SnipEntry, Snips
from morphseq_dagster.testing.step_bench import StepBench, read_table
from tests.support.experiments import FRAMES_EXPERIMENT, open_data_root

EXPERIMENT = "20250529_ctrl"
CURVE = b"stage_hpf,p5,p50,p95,n\n0,400000,500000,600000,9\n100,400000,500000,600000,9\n"


@pytest.fixture(scope="module")
def row(finished_frames: Path) -> dict[str, Any]:
    """One healthy row of a real embryo table, to be varied."""
    path = open_data_root(finished_frames).output("embryo_metadata", experiment=FRAMES_EXPERIMENT)
    return dict(EMBRYOS.decode(path.read_bytes(), where=str(path)).iloc[0].to_dict())


def supply(bench: StepBench, row: dict[str, Any], changes: list[dict[str, Any]]) -> None:
    """Rows of embryo e01 at times 0, 1, 2, ... with the given changes."""
    rows = []
    for t, change in enumerate(changes):
        embryo = change.get("embryo_id", f"{EXPERIMENT}_A01_e01")
        time_int = change.get("time_int", t)
        rows.append(
            row
            | {"embryo_id": embryo, "time_int": time_int, "snip_id": f"{embryo}_t{time_int:04d}"}
            | {"Time Rel (s)": 1800.0 * time_int, "predicted_stage_hpf": 24 + 0.5 * time_int}
            | {"fraction_alive": 1.0, "dead_flag": False, "sam2_qc_flag": False, "mask_target": "body"}
            | {"surface_area_um": 500_000.0}
            | change
        )
    frame = pd.DataFrame(rows)
    bench.supply_table("embryo_metadata", frame, contract=EMBRYOS)
    supply_snips(bench, list(frame["snip_id"]))


def supply_snips(
    bench: StepBench,
    snip_ids: list[str],
    *,
    outside: tuple[str, ...] = (),
    refused: dict[str, bool | None] | None = None,
) -> None:
    who = {"embryo_id": "", "image_id": "", "well": "A01"}
    bench.supply(
        "snips",
        Snips(
            experiment_id=EXPERIMENT,
            files={},
            scale_um_per_px=6.5,
            recipe_hash="",
            background_mean=None,
            background_sd=None,
            snips={
                name: SnipEntry(
                    **who,
                    path="",
                    uncropped_path="",
                    mask_path="",
                    out_of_frame=name in outside,
                    kept_share=1.0,
                    angle_rad=0.0,
                    head_rule="",
                    problem=None,
                )
                for name in snip_ids
            },
            refused={n: RefusedSnip(**who, reason="", out_of_frame=o) for n, o in (refused or {}).items()},
        ),
    )


def run(bench: StepBench, **recipe: dict[str, str]) -> pd.DataFrame:
    return read_table(bench.run("qc_staged", recipe=recipe), CONTRACT)


def test_every_row_of_the_embryo_table_stays_with_its_columns(bench: StepBench, row: dict[str, Any]) -> None:
    supply(bench, row, [{}, {}, {}])
    table = run(bench)
    assert list(table["time_int"]) == [0, 1, 2]
    assert list(table.columns[: len(EMBRYOS.names)]) == list(EMBRYOS.names)
    assert list(table.columns) == list(CONTRACT.names)


@pytest.mark.parametrize("flag", ["dead_flag", "sam2_qc_flag"])
def test_raised_flag_of_the_policy_excludes_its_row_alone(bench: StepBench, row: dict[str, Any], flag: str) -> None:
    supply(bench, row, [{}, {flag: True}, {}])
    table = run(bench)
    assert list(table["use_embryo_flag"]) == [True, False, True]
    assert table.loc[1, "use_embryo_reason"].startswith(f"excluded: {flag}")
    assert set(table["use_embryo_policy"]) == {"newest"}


def test_unknown_flags_are_named_and_exclude_nothing(bench: StepBench, row: dict[str, Any]) -> None:
    unknown = {"dead_flag": pd.NA, "fraction_alive": None, "dead_flag_reason": "viability not measured"}
    supply(bench, row, [unknown, unknown, unknown])
    table = run(bench)
    assert table["use_embryo_flag"].all()
    assert set(table["use_embryo_reason"]) == {"unknown: dead_flag, dead_flag2, sa_outlier_flag"}


def test_frame_and_yolk_count_only_in_the_policy_that_says_so(bench: StepBench, row: dict[str, Any]) -> None:
    supply(bench, row, [{"frame_flag": True}])
    assert list(run(bench)["use_embryo_flag"]) == [True]
    table = run(bench, use_embryo={"policy": "with_frame_and_yolk"})
    assert list(table["use_embryo_flag"]) == [False]
    assert set(table["use_embryo_policy"]) == {"with_frame_and_yolk"}


def test_area_outside_the_reference_is_flagged_with_its_limits(bench: StepBench, row: dict[str, Any]) -> None:
    # limits 0.7 x 400000 and 1.4 x 600000
    areas = [279_999.0, 280_000.0, 840_000.0, 840_001.0]
    supply(bench, row, [{"surface_area_um": area} for area in areas])
    bench.supply_file("area_reference", CURVE)
    table = run(bench)
    assert list(table["sa_outlier_flag"]) == [True, False, False, True]
    assert set(table["sa_lower_limit_um2"]) == {280_000.0}
    assert set(table["sa_upper_limit_um2"]) == {840_000.0}
    assert list(table["use_embryo_flag"]) == [False, True, True, False]


def test_area_of_a_chorion_is_compared_with_no_curve_of_bodies(bench: StepBench, row: dict[str, Any]) -> None:
    supply(bench, row, [{"surface_area_um": 9e6, "mask_target": "chorion"}])
    bench.supply_file("area_reference", CURVE)
    table = run(bench)
    assert table["sa_outlier_flag"].isna().all()
    assert list(table["sa_outlier_flag_reason"]) == ["the mask is of the chorion"]


def test_unknown_pixel_size_leaves_the_area_flag_unknown(bench: StepBench, row: dict[str, Any]) -> None:
    supply(bench, row, [{"surface_area_um": None, "area_um2": None, "um_per_px": None}])
    bench.supply_file("area_reference", CURVE)
    table = run(bench)
    assert table["sa_outlier_flag"].isna().all()
    assert list(table["sa_outlier_flag_reason"]) == ["no surface area"]
    assert table["use_embryo_flag"].all()


def test_missing_references_are_said(bench: StepBench, row: dict[str, Any]) -> None:
    supply(bench, row, [{}])
    assert bench.run("qc_staged").staged.warnings == (
        "no area reference: sa_outlier_flag is unknown",
        "no stage reference: inferred_stage_hpf is null",
    )


def test_death_is_flagged_from_the_lead_time_on(bench: StepBench, row: dict[str, Any]) -> None:
    # The golden case of spec 6.2, in half-hour frames: alive to frame 3, then falling; inflection at 3 (25.5 hpf).
    # 14 further frames before it, so that the lead of four hours (8 frames) does not reach the first one.
    fractions = [1.0] * 14 + [1, 1, 1, 1, 0.95, 0.6, 0.2, 0, 0, 0]
    supply(bench, row, [{"fraction_alive": f, "dead_flag": f < 0.9} for f in fractions])
    result = bench.run("qc_staged", recipe={"death": {"method": "savgol"}})
    table = read_table(result, CONTRACT)
    assert set(table["dead_inflection_time_int"]) == {17}
    # 17 frames are 8.5 h; four hours earlier is frame 9
    assert list(table.loc[table["dead_flag2"] == True, "time_int"]) == list(range(9, 24))  # noqa: E712 - null is not dead
    assert result.staged.counts["dying_embryos"] == 1
    assert list(table.loc[table["use_embryo_flag"], "time_int"]) == list(range(9))


def test_snip_that_lost_part_of_its_embryo_is_flagged_and_one_that_is_missing_is_unknown(
    bench: StepBench, row: dict[str, Any]
) -> None:
    supply(bench, row, [{}, {}, {}, {}])
    names = [f"{EXPERIMENT}_A01_e01_t{t:04d}" for t in range(4)]
    supply_snips(bench, names[:2], outside=(names[1],), refused={names[2]: True})
    table = run(bench)
    assert table["out_of_frame_flag"].to_list() == [False, True, True, pd.NA]


def test_stage_from_the_area_is_an_extra_that_names_its_reference(bench: StepBench, row: dict[str, Any]) -> None:
    supply(bench, row, [{"surface_area_um": 550_000.0}])
    bench.supply_file("stage_reference", b"sa_um,stage_hpf\n500000,10\n600000,20\n")
    table = run(bench)
    assert list(table["inferred_stage_hpf"]) == [15.0]
    assert table.loc[0, "stage_reference_id"].startswith("lab-")
    assert list(table["predicted_stage_hpf"]) == [24.0]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("area_reference", b"stage_hpf,p5\n1,2\n"),
        ("area_reference", b"stage_hpf,p5,p95\n1,many,3\n2,2,3\n"),
        ("area_reference", b"\xff\xfe\x00"),
        ("stage_reference", b""),
        ("stage_reference", b"sa_um,stage_hpf\n5,1\n4,2\n"),
    ],
    ids=["column missing", "text for a number", "no text", "empty", "not rising"],
)
def test_broken_reference_is_refused_by_its_file(
    bench: StepBench, row: dict[str, Any], name: str, content: bytes
) -> None:
    supply(bench, row, [{}])
    bench.supply_file(name, content)
    with pytest.raises(ContractError) as caught:
        run(bench)
    assert f"{name}.csv" in caught.value.where
    assert caught.value.remedy
