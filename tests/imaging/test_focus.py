"""Focus: the sharpest plane is found, also with noise and at the border."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np
import pytest
from scipy import ndimage

from morphseq_dagster.imaging.focus import (
    FocusStack,
    FocusStacker,
    filter_size,
    gather_planes,
    measure_focus,
    median_filter_index,
)
from morphseq_dagster.imaging.pictures import read_grey


def stack_planes(planes: Iterable[np.ndarray], *, size: int, score_sigma_px: float) -> FocusStack:
    stacker = FocusStacker(size=size, score_sigma_px=score_sigma_px)
    for plane in planes:
        stacker.add(plane)
    return stacker.result()


def dome_stack(*, noise: float, texture_px: float) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
    """Eleven planes through a textured dome; also the true plane and the pixels of the dome."""
    rng = np.random.default_rng(7)
    height, width, count = 300, 400, 11
    rows, columns = np.mgrid[:height, :width]
    radius2 = ((columns - width / 2) / (width * 0.36)) ** 2 + ((rows - height / 2) / (height * 0.36)) ** 2
    inside = radius2 < 1
    texture = ndimage.gaussian_filter(rng.standard_normal((height, width)), texture_px)
    sharp = 180 + inside * (-50 + 30 * texture / texture.std())
    depth = np.rint(2 + 6 * np.sqrt(np.clip(1 - radius2, 0, 1))).astype(int)
    blurred = [sharp] + [ndimage.gaussian_filter(sharp, float(s)) for s in range(1, count)]
    planes = []
    for z in range(count):
        plane = np.choose(np.abs(z - depth), blurred) + rng.normal(0, noise, sharp.shape)
        planes.append(np.clip(np.rint(plane), 0, 255).astype(np.uint8))
    return planes, depth, ndimage.binary_erosion(inside, iterations=4)


@pytest.mark.parametrize(("noise", "texture_px"), [(1, 1.0), (2, 2.0), (2, 3.0), (4, 2.0)])
def test_right_plane_for_95_percent_of_textured_pixels(noise: float, texture_px: float) -> None:
    planes, depth, inside = dome_stack(noise=noise, texture_px=texture_px)
    index = median_filter_index(stack_planes(planes, size=5, score_sigma_px=1.5).plane_index, size=11)
    assert (index == depth)[inside].mean() >= 0.95
    assert (np.abs(index.astype(int) - depth) <= 1)[inside].mean() >= 0.99


def test_unsmoothed_score_would_miss_the_target() -> None:
    planes, depth, inside = dome_stack(noise=2, texture_px=2.0)
    index = stack_planes(planes, size=5, score_sigma_px=0.0).plane_index
    assert (index == depth)[inside].mean() < 0.9


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_streaming_equals_choosing_from_all_planes(dtype: type) -> None:
    scale = 200 if dtype is np.uint16 else 1
    planes = [plane.astype(dtype) * dtype(scale) for plane in dome_stack(noise=2, texture_px=2.0)[0]]
    stack = stack_planes(iter(planes), size=3, score_sigma_px=1.5)
    scores = np.stack([measure_focus(plane, size=3, score_sigma_px=1.5) for plane in planes])
    expected = scores.argmax(axis=0)
    np.testing.assert_array_equal(stack.plane_index, expected)
    np.testing.assert_array_equal(stack.pixels, np.take_along_axis(np.stack(planes), expected[None], 0)[0])
    assert stack.pixels.dtype == dtype


def test_score_equals_the_kernels_of_the_specification() -> None:
    plane = np.random.default_rng(1).integers(0, 255, (40, 50), dtype=np.uint8)
    for size, gauss, given in (
        (3, [1, 2, 1], [[2, 0, 2], [0, -8, 0], [2, 0, 2]]),
        (5, [1, 4, 6, 4, 1], None),
    ):
        kernel = np.outer(gauss, gauss) / np.sum(gauss) ** 2
        laplace = given
        if laplace is None:
            # The Laplacian of aperture 5 as the sum of the second derivatives that OpenCV documents.
            second, smooth = cv2.getDerivKernels(2, 0, 5)
            laplace = np.outer(smooth, second) + np.outer(second, smooth)
        expected = ndimage.convolve(plane.astype(float), kernel, mode="mirror")
        expected = ndimage.convolve(expected, np.asarray(laplace, float), mode="mirror") ** 2
        np.testing.assert_allclose(measure_focus(plane, size=size, score_sigma_px=0), expected, rtol=1e-4, atol=1e-2)


def test_bright_flat_plane_has_no_rim() -> None:
    score = measure_focus(np.full((30, 30), 250, np.uint8), size=5, score_sigma_px=1.5)
    assert score.max() == 0


@pytest.mark.parametrize(("um_per_px", "size"), [(1.887, 5), (5.66, 3), (3.0, 3), (0.65, 11), (None, 3), (0.01, 31)])
def test_filter_size_follows_the_pixel_size(um_per_px: float | None, size: int) -> None:
    assert filter_size(um_per_px) == size


def test_median_filter_removes_single_pixels_and_gathering_follows_the_map() -> None:
    index = np.zeros((20, 20), np.uint8)
    index[:, 10:] = 1
    index[5, 5] = 2
    filtered = median_filter_index(index, size=3)
    assert filtered[5, 5] == 0
    planes = [np.full((20, 20), value, np.uint16) for value in (100, 200, 300)]
    np.testing.assert_array_equal(np.unique(gather_planes(planes, plane_index=filtered)), [100, 200])
    assert index[5, 5] == 2
    with pytest.raises(ValueError, match="plane 2"):
        gather_planes(planes[:2], plane_index=index)


def test_of_planes_that_are_equally_sharp_the_first_is_taken() -> None:
    flat = [np.full((8, 8), grey, np.uint8) for grey in (100, 50, 200)]
    stack = stack_planes(flat, size=3, score_sigma_px=1.5)
    np.testing.assert_array_equal(stack.plane_index, np.zeros((8, 8)))
    np.testing.assert_array_equal(stack.pixels, np.full((8, 8), 100))


def test_planes_of_other_size_or_depth_are_refused() -> None:
    stacker = FocusStacker(size=3, score_sigma_px=0)
    with pytest.raises(ValueError, match="at least one"):
        stacker.result()
    stacker.add(np.zeros((8, 8), np.uint8))
    for other in (np.zeros((8, 9), np.uint8), np.zeros((8, 8), np.uint16)):
        with pytest.raises(ValueError, match="plane 1"):
            stacker.add(other)


def test_real_stack_is_sharper_than_every_plane(shared: Path) -> None:
    planes = [read_grey(p).pixels for p in sorted((shared / "data/focus_stack_brightfield").glob("*.png"))]
    stack = stack_planes(planes, size=3, score_sigma_px=1.5)
    index = median_filter_index(stack.plane_index, size=11)
    pixels = gather_planes(planes, plane_index=index)

    def energy(picture: np.ndarray) -> float:
        return float(ndimage.gaussian_laplace(picture.astype(float), 1.0).var())

    assert energy(pixels) > 1.2 * max(energy(plane) for plane in planes)
    # Neighbouring pixels rarely come from planes far apart.
    assert (np.abs(np.diff(index.astype(int), axis=1)) > 2).mean() < 0.1
