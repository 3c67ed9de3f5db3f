"""The outline within a cut-out: what counts as body, how complete it is, and pictures that show nothing."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from morphseq_dagster.segmentation.outline import Outline, find_outline, measure_edge_share, measure_surrounding, to_px
from morphseq_dagster.segmentation.parameters import ClassicalSegmenterSettings

SETTINGS = ClassicalSegmenterSettings()
UM_PER_PX = 8.0


def draw(*, specks: bool = False, gap: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A body of 1.0 x 0.4 mm on a tilted background, with specks of 2 px around it; picture, body and sample."""
    rng = np.random.default_rng(4)
    rows, columns = np.mgrid[:160, :220]
    picture = 1.0 + 0.0004 * columns - 0.0003 * rows
    body = np.zeros(picture.shape, np.uint8)
    cv2.ellipse(body, (110, 80), (62, 25), 0, 0, 360, 1, -1)
    rim = body - cv2.erode(body, np.ones((5, 5), np.uint8))
    picture[body > 0] *= 0.75
    picture[rim > 0] *= 0.7
    near = cv2.dilate(body, np.ones((21, 21), np.uint8)) > 0
    for row, column in ((r, c) for r in range(8, 152, 20) for c in range(8, 212, 20) if specks):
        if not near[row, column]:
            picture[row : row + 2, column : column + 2] = 0.5
    if gap:
        picture[150 - gap : 150, 20:200] *= 0.7
    picture = cv2.GaussianBlur(picture.astype(np.float32), (0, 0), 0.8)
    picture += rng.normal(0, 0.004, picture.shape).astype(np.float32)
    return picture, body > 0, ~near


def find(picture: np.ndarray, sample: np.ndarray, *, prior: np.ndarray | None = None) -> Outline | None:
    domain = np.ones(picture.shape, np.bool_)
    return find_outline(picture, domain=domain, sample=sample, um_per_px=UM_PER_PX, settings=SETTINGS, prior=prior)


def test_body_is_found_whole_with_its_edge() -> None:
    picture, body, sample = draw()
    found = find(picture, sample)
    assert np.count_nonzero(found.mask & body) / np.count_nonzero(found.mask | body) > 0.95
    assert found.edge > 0.95
    assert found.complete == pytest.approx(1.0, abs=0.01)


def test_specks_make_no_body_less_complete() -> None:
    picture, body, sample = draw(specks=True)
    found = find(picture, sample)
    assert np.count_nonzero(found.mask & body) / np.count_nonzero(found.mask | body) > 0.9
    assert found.complete > 0.97


def test_dark_region_beside_the_body_makes_it_less_complete() -> None:
    picture, body, sample = draw(gap=15)
    found = find(picture, sample)
    # The band holds 15 x 180 px of depth 0.3; the body about 4869 px of depth 0.25 and a rim as deep again.
    assert np.count_nonzero(found.mask & body) > 0.9 * np.count_nonzero(body)
    assert 0.5 < found.complete < 0.75


def test_empty_picture_has_no_outline() -> None:
    picture = np.ones((80, 80), np.float32)
    assert find(picture, np.ones(picture.shape, np.bool_)) is None


def test_prior_holds_the_outline_within_its_margin() -> None:
    picture, body, sample = draw()
    left = np.zeros(body.shape, np.bool_)
    left[:, :90] = body[:, :90]
    held = find(picture, sample, prior=left)
    # 60 um are 7.5 px, so the outline ends about 8 px beyond the prior's cut at column 90.
    columns = np.flatnonzero(held.mask.any(axis=0))
    assert columns[0] == pytest.approx(48, abs=2)
    assert 92 <= columns[-1] <= 100


def test_surrounding_is_the_plane_of_the_sampled_pixels_whatever_dark_lies_among_them() -> None:
    rng = np.random.default_rng(1)
    rows, columns = np.mgrid[:100, :200]
    plane = 0.9 + 0.2 * (columns / 200 - 0.5) - 0.1 * (rows / 100 - 0.5)
    picture = (plane + rng.normal(0, 0.01, plane.shape)).astype(np.float32)
    picture[20:40, 50:90] = 0.3
    gradient = np.full(picture.shape, 0.02, np.float32)
    around = measure_surrounding(picture, gradient, np.ones(picture.shape, np.bool_))
    assert np.abs(around.level - plane).max() < 0.006
    assert around.brightness_sigma == pytest.approx(0.01, rel=0.15)
    assert (around.gradient_median, around.gradient_sigma) == pytest.approx((0.02, 1e-4))


def test_surrounding_of_too_few_pixels_is_a_bright_level_of_the_whole_cut_out() -> None:
    picture = np.linspace(0, 1, 101, dtype=np.float32)[None, :].repeat(10, axis=0)
    sample = np.zeros(picture.shape, np.bool_)
    sample[0, :19] = True
    around = measure_surrounding(picture, np.full(picture.shape, 0.5, np.float32), sample)
    np.testing.assert_allclose(around.level, 0.8, atol=1e-6)
    assert (around.brightness_sigma, around.gradient_median, around.gradient_sigma) == (0.02, 0.5, 0.01)


def test_surrounding_of_a_single_row_of_pixels_is_level() -> None:
    picture = np.full((40, 60), 0.7, np.float32)
    sample = np.zeros(picture.shape, np.bool_)
    sample[10] = True
    around = measure_surrounding(picture, np.zeros(picture.shape, np.float32), sample)
    np.testing.assert_allclose(around.level, 0.7, atol=1e-6)


def test_edge_share_counts_the_outline_near_strong_gradients() -> None:
    mask = np.zeros((40, 60), np.bool_)
    mask[10:30, 20:40] = True
    gradient = np.zeros(mask.shape, np.float32)
    gradient[10:30, 19] = 1.0
    # Outline: 4 x 20 - 4 = 76 px. Within two px of column 19: columns 20 and 21, of which the outline has 20 + 2.
    assert measure_edge_share(mask, gradient, level=0.5) == pytest.approx(22 / 76)
    assert measure_edge_share(mask, gradient, level=1.0) == 0.0
    assert measure_edge_share(np.zeros_like(mask), gradient, level=0.5) == 0.0


def test_lengths_are_whole_pixels_and_never_none() -> None:
    assert (to_px(60.0, 8.0), to_px(3.0, 8.0), to_px(3.0, 8.0, least=3)) == (8, 1, 3)
