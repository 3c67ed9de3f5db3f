from __future__ import annotations

import csv
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from morphseq_dagster.errors import ContractError, PermanentError
from morphseq_dagster.morphometry.parameters import ViabilitySettings
from morphseq_dagster.morphometry.viability import infer_viability, measure_optics
from morphseq_dagster.quality.death import infer_death


def _frame(body: float, texture: float, *, lamp: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(5)
    grain = cv2.GaussianBlur(random.standard_normal((300, 300)).astype(np.float32), (0, 0), 1.5)
    grain /= grain.std()
    yy, xx = np.ogrid[:300, :300]
    mask = (yy - 150) ** 2 + (xx - 150) ** 2 <= 60**2
    image = np.where(mask, body + texture * grain, 200.0) * lamp
    return np.clip(image, 0, 255).astype(np.uint8), mask


def _series(*steps: tuple[float, float], lamp: tuple[float, ...] | None = None) -> pd.DataFrame:
    rows = []
    for t, (body, texture) in enumerate(steps):
        image, mask = _frame(body, texture, lamp=1.0 if lamp is None else lamp[t])
        optics = measure_optics(image, mask=mask, um_per_px=3.25)
        rows.append(("e01", t * 1800.0, optics.transmission, optics.texture))
    return pd.DataFrame(rows, columns=["embryo_id", "time_s", "transmission", "texture"])


ALIVE, DEAD = (140.0, 8.0), (50.0, 1.0)


def test_transmission_is_the_body_over_the_background() -> None:
    image, mask = _frame(100.0, 0.0)
    optics = measure_optics(image, mask=mask, um_per_px=3.25)
    assert optics.transmission == pytest.approx(0.5)
    assert optics.texture == pytest.approx(0.0, abs=1e-3)
    assert optics.background == 200.0


def test_turning_opaque_and_flat_ends_life_and_stays_so() -> None:
    alive = infer_viability(_series(*[ALIVE] * 4, *[DEAD] * 3))["fraction_alive"]
    assert alive.iloc[:4].min() > 0.95
    assert alive.iloc[4:].max() < 0.1


def test_a_dimming_lamp_changes_nothing() -> None:
    alive = infer_viability(_series(*[ALIVE] * 5, lamp=(1.0, 0.9, 0.7, 0.6, 0.5)))["fraction_alive"]
    assert alive.min() > 0.95


def test_lost_focus_alone_changes_nothing() -> None:
    alive = infer_viability(_series(ALIVE, ALIVE, (140.0, 1.0), ALIVE))["fraction_alive"]
    assert alive.min() > 0.95


def test_a_passing_shadow_leaves_at_least_half() -> None:
    alive = infer_viability(_series(ALIVE, ALIVE, (60.0, 8.0), ALIVE))["fraction_alive"]
    assert 0.45 <= alive.iloc[2] < 0.9
    assert alive.iloc[3] > 0.95


def test_slow_darkening_by_development_is_followed() -> None:
    table = pd.DataFrame(
        {
            "embryo_id": "e01",
            "time_s": np.arange(60) * 1800.0,
            "transmission": np.linspace(0.75, 0.55, 60),
            "texture": 0.02,
        }
    )
    assert infer_viability(table)["fraction_alive"].min() > 0.95


def test_dead_from_the_first_frame_is_seen_but_a_dark_picture_with_texture_is_alive() -> None:
    table = pd.DataFrame(
        {
            "embryo_id": ["e01"] * 3 + ["e02"] * 3,
            "time_s": [0.0, 1.0, 2.0] * 2,
            "transmission": [0.2] * 6,
            "texture": [0.004] * 3 + [0.02] * 3,
        }
    )
    found = infer_viability(table)
    assert found["fraction_alive"].tolist() == [0.0] * 3 + [1.0] * 3
    assert found["fraction_alive_reason"].iloc[0].startswith("first frame")


def test_order_and_index_of_the_table_do_not_matter_and_gaps_are_unknown() -> None:
    table = _series(*[ALIVE] * 4, *[DEAD] * 3)
    table.loc[2, "texture"] = np.nan
    table.loc[3, "time_s"] = np.nan
    want = infer_viability(table)
    assert want["fraction_alive_reason"].iloc[[2, 3]].tolist() == ["not measured", "no time"]
    assert want["fraction_alive"].iloc[[2, 3]].isna().all()
    shuffled = table.sample(frac=1, random_state=3).set_index(np.arange(7) + 100)
    back = infer_viability(shuffled)
    back.index = table.sample(frac=1, random_state=3).index
    pd.testing.assert_frame_equal(back.sort_index(), want)


def test_empty_mask_and_black_picture_give_reasons() -> None:
    image, mask = _frame(*ALIVE)
    assert measure_optics(image, mask=np.zeros_like(mask), um_per_px=None).problem == "empty mask"
    assert measure_optics(np.zeros_like(image), mask=mask, um_per_px=None).problem == "black background"


def test_missing_columns_and_wrong_pictures_are_refused() -> None:
    with pytest.raises(ContractError, match="time_s, texture"):
        infer_viability(pd.DataFrame({"embryo_id": [], "transmission": []}))
    image, mask = _frame(*ALIVE)
    with pytest.raises(PermanentError, match="8-bit"):
        measure_optics(image.astype(np.float32), mask=mask, um_per_px=None)  # type: ignore[arg-type]


def test_embryo_8_of_the_real_series_dies_between_frames_190_and_210_and_nobody_else(shared: Path) -> None:
    folder = shared / "data" / "embryonet_timelapse"
    boxes: dict[int, list[dict[str, str]]] = {}
    with (folder / "tracks_ground_truth.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            boxes.setdefault(int(row["time_point"]), []).append(row)
    rows = []
    with (folder / "frames.csv").open(newline="") as file:
        frames = [row for row in csv.DictReader(file) if row["image_included"] == "1"]
    for frame in frames:
        number = int(frame["time_point"])
        image = cv2.imread(str(folder / "images" / frame["file"]), cv2.IMREAD_GRAYSCALE)
        assert image is not None
        for box in boxes[number]:
            x = (int(box["x_min_px"]) + int(box["x_max_px"])) // 2
            y = (int(box["y_min_px"]) + int(box["y_max_px"])) // 2
            canvas = np.zeros(image.shape, np.uint8)
            cv2.circle(canvas, (x, y), 115, 1, -1)  # about the body, 0.37 mm; no masks exist
            optics = measure_optics(image.astype(np.uint8), mask=canvas > 0, um_per_px=3.25)
            rows.append((box["embryo_id"], number, float(frame["elapsed_s"]), optics.transmission, optics.texture))
    table = pd.DataFrame(rows, columns=["embryo_id", "time_int", "time_s", "transmission", "texture"])
    table = table.join(infer_viability(table))
    table = table.join(infer_death(table))
    died = table[table["dead_inflection_time_int"].notna()]
    assert set(died["embryo_id"]) == {"8"}
    # Truth: dead from frame 208 on; pictures exist of frames 190 and 210.
    assert set(died["dead_inflection_time_int"]) == {190}
    own = table[table["embryo_id"] == "8"].set_index("time_int")["fraction_alive"]
    assert own.loc[:190].min() > 0.9
    assert own.loc[210:].max() < 0.1
    assert table.loc[table["embryo_id"] != "8", "fraction_alive"].min() > 0.9


@pytest.mark.parametrize("name", ["dark", "texture", "opaque", "flat"])
def test_limit_of_the_dead_lies_below_that_of_the_living(name: str) -> None:
    limit = getattr(ViabilitySettings(), f"{name}_alive")
    with pytest.raises(ValueError, match=f"{name}_dead must lie below {name}_alive"):
        ViabilitySettings.model_validate({f"{name}_dead": limit})
