from __future__ import annotations

import cv2
import numpy as np
from scipy import ndimage

from morphseq_dagster.morphometry.cleaning import CleaningSettings, clean_mask


def _disk(row: int, col: int, radius: int, shape: tuple[int, int] = (300, 300)) -> np.ndarray:
    yy, xx = np.ogrid[: shape[0], : shape[1]]
    return (yy - row) ** 2 + (xx - col) ** 2 <= radius**2


def test_clean_mask_is_left_alone() -> None:
    mask = _disk(150, 150, 60)
    cleaned = clean_mask(mask)
    assert np.array_equal(cleaned.mask, mask)
    assert (cleaned.actions, cleaned.problem) == ((), None)


def test_crumbs_go_and_holes_are_filled() -> None:
    body = _disk(150, 150, 60)
    mask = (body & ~_disk(150, 160, 8)) | _disk(30, 30, 5)
    cleaned = clean_mask(mask)
    assert np.array_equal(cleaned.mask, body)
    assert cleaned.actions == ("small components dropped", "holes filled")


def test_two_large_pieces_across_a_gap_are_joined() -> None:
    mask = np.zeros((200, 300), bool)
    mask[80:120, 40:140] = True
    mask[80:120, 146:260] = True
    cleaned = clean_mask(mask)
    assert ndimage.label(cleaned.mask)[1] == 1
    assert "components joined" in cleaned.actions
    assert cleaned.mask.sum() >= mask.sum() + 6 * 30


def test_pieces_too_far_apart_leave_the_largest() -> None:
    mask = _disk(60, 60, 40, (600, 600)) | _disk(500, 500, 30, (600, 600))
    cleaned = clean_mask(mask)
    assert np.array_equal(cleaned.mask, _disk(60, 60, 40, (600, 600)))
    assert cleaned.actions[-1] == "largest component kept"


def test_a_thread_is_cut_off_only_when_it_makes_the_mask_unsolid() -> None:
    mask = _disk(150, 60, 40)
    mask[148:150, 90:290] = True
    cleaned = clean_mask(mask)
    assert any(action.startswith("opened") for action in cleaned.actions)
    assert not cleaned.mask[149, 150:].any()
    assert cleaned.mask.sum() > 0.97 * _disk(150, 60, 40).sum()
    kept = clean_mask(mask, settings=CleaningSettings(opening_below_solidity=0.0))
    assert kept.mask[149, 280]


def test_a_mask_that_opening_would_destroy_is_kept_and_the_failure_is_told() -> None:
    canvas = np.zeros((200, 200), np.uint8)
    cv2.ellipse(canvas, (100, 100), (80, 80), 0, 0, 270, 1, 2)
    mask = canvas > 0
    cleaned = clean_mask(mask)
    assert np.array_equal(cleaned.mask, mask)
    assert cleaned.problem is not None
    assert "opening" in cleaned.problem


def test_empty_mask_is_told() -> None:
    assert clean_mask(np.zeros((9, 9), bool)).problem == "empty mask"


def test_a_mask_at_the_border_keeps_its_border_pixels_and_the_input_is_not_touched() -> None:
    mask = np.zeros((100, 100), bool)
    mask[0:40, 0:30] = True
    mask[45:80, 0:30] = True
    before = mask.copy()
    cleaned = clean_mask(mask)
    assert cleaned.mask[0, 0]
    assert cleaned.mask[42, 15]
    assert cleaned.mask.shape == mask.shape
    assert np.array_equal(mask, before)


def test_radius_of_the_opening_follows_the_closed_outline() -> None:
    mask = np.zeros((120, 120), bool)
    mask[10:110, 10:40] = True
    mask[80:110, 10:110] = True
    # Outline of the L through pixel centres: 99 + 99 + 29 + 70 + 70 + 29 = 396, less a cut corner; open it lacks 29.
    settings = CleaningSettings(opening_below_solidity=0.7, opening_radius_min_px=1, opening_perimeter_divisor=38.0)
    assert clean_mask(mask, settings=settings).actions == ("opened with radius 10 px",)
