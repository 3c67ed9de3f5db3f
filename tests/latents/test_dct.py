from __future__ import annotations

import math

import numpy as np
import pytest

from morphseq_dagster.errors import PermanentError
from morphseq_dagster.latents.dct import SNIP_SHAPE, DctEmbedder, lowest_frequencies


def _cosine(u: int, v: int) -> np.ndarray:
    """Orthonormal DCT-II basis picture by its textbook formula."""
    height, width = SNIP_SHAPE
    rows = np.cos(math.pi * u * (2 * np.arange(height) + 1) / (2 * height))
    cols = np.cos(math.pi * v * (2 * np.arange(width) + 1) / (2 * width))
    scale = math.sqrt((1 if u == 0 else 2) / height) * math.sqrt((1 if v == 0 else 2) / width)
    return scale * np.outer(rows, cols)


def test_coefficients_equal_the_textbook_sum() -> None:
    random = np.random.default_rng(0)
    snip = random.integers(0, 256, SNIP_SHAPE, dtype=np.uint8)
    vector = DctEmbedder().embed(snip[None])[0]
    rows, cols = lowest_frequencies(100, shape=SNIP_SHAPE)
    for i in (0, 1, 2, 3, 17, 99):
        want = float((_cosine(int(rows[i]), int(cols[i])) * snip / 255.0).sum())
        assert vector[i] == pytest.approx(want, abs=1e-4)


def test_order_is_by_cycles_per_micrometre() -> None:
    rows, cols = lowest_frequencies(100, shape=SNIP_SHAPE)
    pairs = list(zip(rows.tolist(), cols.tolist(), strict=True))
    # u/576 against v/256: u = 1, 2 come before v = 1 (2.25), then (1, 1) at 2.46, (2, 1) at 3.01 after (3, 0).
    assert pairs[:7] == [(0, 0), (1, 0), (2, 0), (0, 1), (1, 1), (3, 0), (2, 1)]
    frequency = [(u / 576) ** 2 + (v / 256) ** 2 for u, v in pairs]
    assert frequency == sorted(frequency)
    assert len(set(pairs)) == 100
    everything = sorted((u / 576) ** 2 + (v / 256) ** 2 for u in range(60) for v in range(60))
    assert frequency == pytest.approx(everything[:100])


def test_ties_are_ordered_by_row_then_column() -> None:
    rows, cols = lowest_frequencies(6, shape=(8, 8))
    assert list(zip(rows.tolist(), cols.tolist(), strict=True)) == [(0, 0), (0, 1), (1, 0), (1, 1), (0, 2), (2, 0)]


def test_a_flat_snip_has_only_its_mean() -> None:
    vector = DctEmbedder().embed(np.full((1, *SNIP_SHAPE), 255, np.uint8))[0]
    assert vector[0] == pytest.approx(384.0)
    assert np.abs(vector[1:]).max() < 1e-9


def test_no_number_depends_on_the_batch() -> None:
    snips = np.random.default_rng(1).integers(0, 256, (5, *SNIP_SHAPE), dtype=np.uint8)
    model = DctEmbedder()
    together = model.embed(snips)
    alone = np.concatenate([model.embed(snips[i : i + 1]) for i in range(5)])
    assert together.dtype == np.float32
    assert together.tobytes() == alone.tobytes()
    assert model.embed(snips[:0]).shape == (0, 100)


def test_most_of_a_smooth_picture_is_kept() -> None:
    yy, xx = np.indices(SNIP_SHAPE)
    snip = (255 * np.exp(-(((yy - 288) / 150) ** 2) - ((xx - 128) / 60) ** 2)).astype(np.uint8)
    vector = DctEmbedder().embed(snip[None])[0]
    # Parseval: the energy of an orthonormal transform is that of the picture.
    assert np.square(vector).sum() == pytest.approx(np.square(snip / 255.0).sum(), rel=0.001)


def test_names_are_flat_and_there_is_no_sigma() -> None:
    model = DctEmbedder()

    assert model.column_names[0] == "z_mu_00"
    assert model.column_names[-1] == "z_mu_99"
    assert len(set(model.column_names)) == model.latent_dim == 100
    assert model.identity().weights_sha256 is None
    assert model.identity().name == "dct_100"


@pytest.mark.parametrize(
    "snips",
    [
        np.zeros((2, 288, 128), np.uint8),
        np.zeros(SNIP_SHAPE, np.uint8),
        np.zeros((1, *SNIP_SHAPE), np.float32),
    ],
)
def test_other_snips_are_refused(snips: np.ndarray) -> None:
    with pytest.raises(PermanentError, match="dct_100"):
        DctEmbedder().embed(snips)


def test_more_coefficients_than_pixels_are_refused() -> None:
    with pytest.raises(PermanentError, match="fewer"):
        lowest_frequencies(10, shape=(3, 3))
