from __future__ import annotations

import numpy as np

from morphseq_dagster.detection.regions import apply_hysteresis, fill_outlines, level_water
from morphseq_dagster.detection.work_image import (
    estimate_background,
    fill_from_nearest,
    find_lit_field,
    measure_gradient,
    prepare_work_picture,
)


def test_gradient_of_a_ramp_is_its_slope_per_pixel() -> None:
    ramp = np.tile(np.arange(40, dtype=np.float32) * 3, (30, 1))

    along, down, magnitude = measure_gradient(ramp)

    assert np.allclose(along[10:20, 10:30], 3.0, atol=1e-4)
    assert np.allclose(down[10:20, 10:30], 0.0, atol=1e-4)
    assert np.allclose(magnitude[10:20, 10:30], 3.0, atol=1e-4)


def test_dark_object_leaves_the_background_alone() -> None:
    picture = np.full((200, 200), 100, np.float32)
    picture[90:110, 90:110] = 20

    background = estimate_background(
        picture, lit=np.ones(picture.shape, np.bool_), thumbnail_px=64, closing_px=25, sigma_px=4.0
    )

    assert np.allclose(background, 100, atol=0.5)


def test_wall_is_unlit_and_the_well_is_lit_but_for_the_margin() -> None:
    picture = np.full((100, 120), 180, np.float32)
    picture[:, :30] = 20

    lit = find_lit_field(picture, dark_share=0.5, margin_px=5)

    assert not lit[:, :34].any()
    assert lit[:, 36:].all()


def test_dark_object_in_the_middle_is_no_wall() -> None:
    picture = np.full((100, 120), 180, np.float32)
    picture[40:60, 40:60] = 20

    assert find_lit_field(picture, dark_share=0.5, margin_px=5).all()


def test_unknown_pixels_take_the_nearest_known_value() -> None:
    picture = np.array([[1, 2, 3, 4]], np.float32)
    known = np.array([[True, False, False, True]])

    assert fill_from_nearest(picture, known).tolist() == [[1, 1, 4, 4]]


def test_work_picture_has_the_wanted_physical_scale_and_is_never_magnified() -> None:
    image = np.full((240, 480), 150, np.uint8)

    fine = prepare_work_picture(
        image, um_per_px=3.0, target_um_per_px=12.0, longest_side_px=512, dark_share=0.5, wall_margin_px=12
    )
    coarse = prepare_work_picture(
        image, um_per_px=24.0, target_um_per_px=12.0, longest_side_px=512, dark_share=0.5, wall_margin_px=12
    )

    assert (fine.shape, fine.um_per_px, fine.scale_x) == ((60, 120), 12.0, 4.0)
    assert (coarse.shape, coarse.um_per_px) == ((240, 480), 24.0)


def test_weak_edges_count_only_where_they_reach_a_strong_one() -> None:
    values = np.array([[0, 2, 2, 5, 0, 2, 2, 0]], np.float32)

    assert apply_hysteresis(values, low=1, high=4).tolist() == [[False, True, True, True, False, False, False, False]]
    # Both limits have to be exceeded.
    assert not apply_hysteresis(values, low=1, high=5).any()
    assert apply_hysteresis(values, low=2, high=4).tolist() == [[i == 3 for i in range(8)]]


def test_holes_are_filled_unless_they_look_like_background() -> None:
    ring = np.zeros((9, 9), np.bool_)
    ring[1:8, 1:8] = True
    ring[3:6, 3:6] = False
    everywhere, nowhere = np.ones_like(ring), np.zeros_like(ring)

    assert fill_outlines(ring).sum() == 49
    assert fill_outlines(ring, plain=nowhere).sum() == 49
    assert fill_outlines(ring, plain=everywhere).sum() == 40


def test_half_plain_hole_is_filled_when_small_and_open_when_large() -> None:
    ring = np.zeros((9, 9), np.bool_)
    ring[1:8, 1:8] = True
    ring[3:6, 3:6] = False
    plain = np.zeros_like(ring)
    plain[3:6, 3:5] = True  # 6 of 9

    assert fill_outlines(ring, plain=plain, large_px=10).sum() == 49
    assert fill_outlines(ring, plain=plain, large_px=8).sum() == 40


def test_slow_shadow_is_levelled_and_the_body_in_it_is_not() -> None:
    rows, columns = np.mgrid[:160, :160].astype(np.float32)
    shade = 1 - 0.3 * np.exp(-((columns - 60) ** 2 + (rows - 80) ** 2) / (2 * 50**2))
    body = (columns - 80) ** 2 + (rows - 80) ** 2 < 20**2
    picture = (shade * np.where(body, 0.7, 1.0)).astype(np.float32)

    level = level_water(
        picture, lit=np.ones(picture.shape, np.bool_), close_px=7, shade_px=12.0, edge_floor=0.012, edge_sigma=4.0
    )

    far = (columns - 80) ** 2 + (rows - 80) ** 2 > 35**2
    assert np.abs(level[far] - 1).max() < 0.05
    assert np.abs(level[body] - 0.7).max() < 0.08


def test_shadow_wider_than_any_embryo_is_background_and_a_narrow_one_is_not() -> None:
    # The closing that finds the background spans 25 x 64 um = 1.6 mm; wider dark bands are the light's own.
    def shade(width_um: float) -> float:
        image = np.full((400, 800), 200, np.uint8)
        half = round(width_um / 10.0 / 2)
        image[:, 400 - half : 400 + half] = 140
        work = prepare_work_picture(
            image, um_per_px=10.0, target_um_per_px=10.0, longest_side_px=800, dark_share=0.5, wall_margin_px=12
        )
        return float(np.median(work.flat[:, 395:405]))

    assert shade(600.0) < 0.8
    assert shade(2200.0) > 0.9
