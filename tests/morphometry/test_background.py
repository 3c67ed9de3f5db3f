from __future__ import annotations

import numpy as np
import pytest

from morphseq_dagster.errors import PermanentError
from morphseq_dagster.morphometry.background import (
    BackgroundStatistics,
    as_dark_background,
    background_noise,
    background_statistics,
    sample_frames,
)


def test_inversion_is_exact_at_both_ends_and_leaves_the_input() -> None:
    image = np.array([[0, 1, 254, 255]], np.uint8)
    before = image.copy()
    assert as_dark_background(image, polarity="bright_background").tolist() == [[255, 254, 1, 0]]
    assert as_dark_background(image, polarity="dark_background").tolist() == [[0, 1, 254, 255]]
    assert np.array_equal(image, before)


def test_sixteen_bits_are_refused() -> None:
    with pytest.raises(PermanentError, match="8-bit"):
        as_dark_background(np.zeros((3, 3), np.uint16), polarity="dark_background")  # type: ignore[arg-type]


def test_statistics_leave_out_the_embryo_and_equal_numpy() -> None:
    random = np.random.default_rng(1)
    images = [random.integers(180, 220, (40, 50), dtype=np.uint8) for _ in range(3)]
    masks = [np.zeros((40, 50), bool) for _ in images]
    for image, mask in zip(images, masks, strict=True):
        mask[10:20, 10:20] = True
        image[mask] = 3
    found = background_statistics(zip(images, masks, strict=True), polarity="bright_background")
    pixels = np.concatenate([255.0 - i[~m] for i, m in zip(images, masks, strict=True)])
    assert found.mean == pytest.approx(pixels.mean())
    assert found.sd == pytest.approx(pixels.std())
    assert (found.frames, found.pixels) == (3, 3 * 1900)
    assert found == background_statistics(zip(images[::-1], masks[::-1], strict=True), polarity="bright_background")


def test_no_background_pixel_is_an_error() -> None:
    full = (np.zeros((4, 4), np.uint8), np.ones((4, 4), bool))
    with pytest.raises(PermanentError, match="none in 1 frames"):
        background_statistics([full], polarity="dark_background")


def test_sample_does_not_depend_on_order_and_changes_little_when_frames_are_added() -> None:
    ids = [f"20240418_A01_ch00_t{t:04d}" for t in range(500)]
    chosen = sample_frames(ids, count=100)
    assert len(chosen) == 100
    assert chosen == sample_frames(ids[::-1], count=100)
    assert chosen != sample_frames(ids, count=100, seed=310)
    more = sample_frames([*ids, "20240418_A01_ch00_t0500"], count=100)
    assert len(set(more) - set(chosen)) <= 1
    assert sample_frames(ids[:7], count=100) == tuple(ids[:7])


def test_noise_belongs_to_the_snip_and_keeps_its_bounds() -> None:
    level = BackgroundStatistics(mean=10.0, sd=5.0)
    first = background_noise((576, 256), statistics=level, snip_id="20240418_A01_e01_t0000")
    again = background_noise((576, 256), statistics=level, snip_id="20240418_A01_e01_t0000")
    other = background_noise((576, 256), statistics=level, snip_id="20240418_A01_e01_t0001")
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert first.min() >= 0.0
    assert first.max() <= 30.0
    # Mean of a normal cut at -2 and +4 sd: 10 + 5 * (phi(2) - phi(4)) / (Phi(4) - Phi(-2)) = 10.276.
    assert first.mean() == pytest.approx(10.276, abs=0.06)


def test_noise_without_spread_is_flat() -> None:
    noise = background_noise((4, 4), statistics=BackgroundStatistics(7.0, 0.0), snip_id="x")
    assert np.unique(noise).tolist() == [7.0]
