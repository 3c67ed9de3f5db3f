"""Stitching: offsets within a pixel, refusal of chance matches, seams and canvas."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from morphseq_dagster.imaging.pictures import read_grey
from morphseq_dagster.imaging.stitching import (
    MatchSettings,
    Orientation,
    TileOffset,
    TileStep,
    canvas_shape,
    choose_orientation,
    estimate_plate_steps,
    fit_canvas,
    measure_offsets,
    nominal_steps,
    stitch,
    stitch_labels,
)


def scene(shape: tuple[int, int], *, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    fine = ndimage.gaussian_filter(rng.standard_normal(shape), 3.0)
    coarse = ndimage.gaussian_filter(rng.standard_normal(shape), 40.0)
    return 130 + 12 * fine / fine.std() + 25 * coarse / coarse.std()


def cut(
    picture: np.ndarray, places: list[tuple[int, int]], shape: tuple[int, int], *, noise: float
) -> list[np.ndarray]:
    """Tiles with noise of their own and light that falls off differently in each."""
    rng = np.random.default_rng(0)
    tiles = []
    for i, (row, column) in enumerate(places):
        tile = picture[row : row + shape[0], column : column + shape[1]] * (1 + 0.04 * i)
        tile = tile + np.linspace(-12, 12, shape[1])[None, :] + rng.normal(0, noise, shape)
        tiles.append(np.clip(np.rint(tile), 0, 255).astype(np.uint8))
    return tiles


def positions(offsets: tuple[TileOffset, ...]) -> list[tuple[int, int]]:
    return [(offset.row_px, offset.column_px) for offset in offsets]


@settings(max_examples=8)
@given(
    st.sampled_from(["vertical", "horizontal"]),
    st.lists(st.tuples(st.integers(-7, 7), st.integers(-7, 7)), min_size=2, max_size=2),
)
def test_jittered_tiles_are_placed_exactly(orientation: Orientation, jitter: list[tuple[int, int]]) -> None:
    shape = (180, 240)
    step = (126, 0) if orientation == "vertical" else (0, 168)
    places = [(20, 20)]
    for i, (down, right) in enumerate(jitter, start=1):
        places.append((20 + i * step[0] + down, 20 + i * step[1] + right))
    tiles = cut(scene((480, 620), seed=3), places, shape, noise=6.0)
    prior = nominal_steps(shape, count=3, overlap=0.30, orientation=orientation)
    offsets = measure_offsets(tiles, prior=prior, settings=MatchSettings())
    assert positions(offsets) == [(row - 20, column - 20) for row, column in places]
    assert [offset.source for offset in offsets] == ["reference", "measured", "measured"]


@pytest.mark.parametrize(("overlap", "search"), [(0.105, 0.1), (0.15, 0.1), (0.30, 0.25)])
def test_real_tiles_with_a_wrong_prior_are_placed_within_a_pixel(shared: Path, overlap: float, search: float) -> None:
    folder = shared / "data/tiles_real"
    with (folder / "positions_ground_truth.csv").open() as handle:
        truth = list(csv.DictReader(handle))
    tiles = [read_grey(folder / row["file"]).pixels for row in truth]
    prior = nominal_steps(tiles[0].shape, count=3, overlap=overlap, orientation="vertical")
    offsets = measure_offsets(tiles, prior=prior, settings=MatchSettings(search_fraction=search))
    for offset, row in zip(offsets, truth, strict=True):
        assert abs(offset.row_px - float(row["y_px"])) <= 1
        assert abs(offset.column_px - (float(row["x_px"]) - float(truth[0]["x_px"]))) <= 1
    assert min(offset.ncc or 0 for offset in offsets[1:]) > 0.7


def test_true_shift_outside_the_search_keeps_the_prior_and_says_so(shared: Path) -> None:
    tiles = [read_grey(shared / f"data/tiles_real/tile_row{i}_col0.jpg").pixels for i in range(2)]
    prior = nominal_steps(tiles[0].shape, count=2, overlap=0.30, orientation="vertical")
    offsets = measure_offsets(tiles, prior=prior, settings=MatchSettings(search_fraction=0.1))
    assert positions(offsets) == [(0, 0), (309, 0)]
    assert offsets[1].source == "prior"
    assert offsets[1].ncc is not None
    assert offsets[1].ncc < 0.3


def test_tiles_cut_from_a_real_well_are_placed_exactly(shared: Path) -> None:
    folder = shared / "data/tiles_derived/LO170/XY01"
    with (folder / "positions_ground_truth.csv").open() as handle:
        truth = list(csv.DictReader(handle))
    tiles = [read_grey(folder / row["file"]).pixels for row in truth]
    prior = nominal_steps(tiles[0].shape, count=3, overlap=0.30, orientation="horizontal")
    offsets = measure_offsets(tiles, prior=prior, settings=MatchSettings())
    assert positions(offsets) == [(int(row["y_offset_px"]), int(row["x_offset_px"])) for row in truth]


def test_noise_and_blank_tiles_are_not_believed() -> None:
    rng = np.random.default_rng(5)
    noise = [rng.normal(120, 8, (180, 240)).clip(0, 255).astype(np.uint8) for _ in range(3)]
    prior = nominal_steps((180, 240), count=3, overlap=0.30, orientation="horizontal")
    offsets = measure_offsets(noise, prior=prior, settings=MatchSettings())
    assert [offset.source for offset in offsets[1:]] == ["prior", "prior"]
    assert positions(offsets) == [(0, 0), (0, 168), (0, 336)]
    blank = [np.full((180, 240), 200, np.uint8)] * 3
    assert [o.ncc for o in measure_offsets(blank, prior=prior, settings=MatchSettings())] == [None, None, None]


def test_pattern_fixed_to_the_camera_does_not_pull_tiles_together() -> None:
    tiles = cut(scene((300, 620), seed=4), [(20, 20), (22, 190)], (180, 240), noise=3.0)
    dust = 40 * (ndimage.gaussian_filter(np.random.default_rng(1).standard_normal((180, 240)), 1.5) > 0.2)
    dirty = [np.clip(tile - dust, 0, 255).astype(np.uint8) for tile in tiles]
    prior = nominal_steps((180, 240), count=2, overlap=0.30, orientation="horizontal")
    assert positions(measure_offsets(dirty, prior=prior, settings=MatchSettings())) in (
        [(0, 0), (2, 170)],
        [(0, 0), (0, 168)],
    )


def test_plate_offsets_are_the_median_of_what_was_measured() -> None:
    def frame(row: int, column: int, source: str) -> tuple[TileOffset, ...]:
        return (TileOffset(0, 0, "reference", None), TileOffset(row, column, source, 0.9))  # type: ignore[arg-type]

    frames = [frame(1, 170, "measured"), frame(2, 171, "measured"), frame(9, 190, "measured"), frame(0, 168, "prior")]
    assert estimate_plate_steps(frames) == (TileStep(2, 171),)
    assert estimate_plate_steps(frames[:2]) == (TileStep(2, 171),)  # halves go up
    assert estimate_plate_steps(frames[3:]) == (None,)
    assert estimate_plate_steps([]) == ()


def test_plate_steps_are_counted_between_neighbours_whatever_came_before() -> None:
    first = TileOffset(0, 0, "reference", None)
    frames = [
        (first, TileOffset(0, 168, "prior", None), TileOffset(3, 338, "measured", 0.9)),
        (first, TileOffset(1, 171, "measured", 0.9)),
        (first,),
    ]
    assert estimate_plate_steps(frames) == (TileStep(1, 171), TileStep(3, 170))


def test_lamp_that_falls_off_towards_the_corners_of_every_tile_moves_nothing() -> None:
    places = [(20, 20), (23, 186), (17, 352)]
    rows, columns = np.mgrid[-1:1:180j, -1:1:240j]
    lamp = 90 * (1 - (rows**2 + columns**2) / 2)
    tiles = [
        np.clip(tile.astype(float) - 90 + lamp, 0, 255).astype(np.uint8)
        for tile in cut(scene((300, 620), seed=4) + 20, places, (180, 240), noise=3.0)
    ]
    prior = nominal_steps((180, 240), count=3, overlap=0.30, orientation="horizontal")
    found = measure_offsets(tiles, prior=prior, settings=MatchSettings())
    assert positions(found) == [(0, 0), (3, 166), (-3, 332)]
    assert [offset.source for offset in found] == ["reference", "measured", "measured"]


@pytest.mark.parametrize("moved", [(3, 2), (-3, -2), (2, -3), (-2, 3), (0, 1), (-1, 0)])
def test_tiles_without_fine_detail_are_placed_exactly(moved: tuple[int, int]) -> None:
    # Nothing but blobs of some 15 px: peaks of the phase correlation are noise, and the best overlap is climbed to.
    rng = np.random.default_rng(0)
    blobs = ndimage.gaussian_filter(rng.standard_normal((260, 520)), 6.0)
    picture = 130 + 30 * blobs / blobs.std()
    places = [(20, 20), (20 + moved[0], 188 + moved[1])]
    tiles = [picture[r : r + 180, c : c + 240] + rng.normal(0, 2, (180, 240)) for r, c in places]
    grey = [np.clip(np.rint(tile), 0, 255).astype(np.uint8) for tile in tiles]
    prior = nominal_steps((180, 240), count=2, overlap=0.30, orientation="horizontal")
    found = measure_offsets(grey, prior=prior, settings=MatchSettings())
    assert positions(found)[1] == (moved[0], 168 + moved[1])


def test_only_steps_that_nothing_explains_take_the_plates() -> None:
    tiles = cut(scene((300, 620), seed=4), [(20, 20), (22, 190), (24, 360)], (180, 240), noise=3.0)
    tiles[2] = np.full_like(tiles[2], 200)
    prior = nominal_steps((180, 240), count=3, overlap=0.30, orientation="horizontal")

    def found(*plate: TileStep | None) -> list[tuple[int, int, str]]:
        offsets = measure_offsets(tiles, prior=prior, settings=MatchSettings(), plate=plate)
        return [(o.row_px, o.column_px, o.source) for o in offsets[1:]]

    assert found() == [(2, 170, "measured"), (2, 338, "prior")]
    assert found(TileStep(9, 150), TileStep(1, 171)) == [(2, 170, "measured"), (3, 341, "plate")]
    assert found(TileStep(9, 150), None) == found(TileStep(9, 150)) == found()


def test_seam_is_linear_and_uncovered_pixels_are_black() -> None:
    left, right = np.full((10, 20), 100, np.uint8), np.full((10, 20), 200, np.uint8)
    offsets = (TileOffset(0, 0, "reference", None), TileOffset(2, 11, "measured", 0.9))
    mosaic = stitch([left, right], offsets=offsets)
    assert mosaic.shape == (12, 31)
    # Nine shared columns, weights 1/10 .. 9/10 against 9/10 .. 1/10.
    np.testing.assert_array_equal(mosaic[5, 9:22], [100, 100, 110, 120, 130, 140, 150, 160, 170, 180, 190, 200, 200])
    assert mosaic[0, 30] == 0
    assert mosaic[11, 0] == 0
    assert mosaic[0, 15] == 100


def test_equal_overlaps_are_reproduced_exactly() -> None:
    picture = scene((100, 260), seed=9).clip(0, 255).astype(np.uint8)
    tiles = [picture[:, at : at + 120] for at in (0, 70, 140)]
    offsets = tuple(TileOffset(0, at, "measured", 1.0) for at in (0, 70, 140))
    np.testing.assert_array_equal(stitch(tiles, offsets=offsets), picture)


def test_labels_come_from_the_heavier_tile() -> None:
    tiles = [np.full((4, 20), 1, np.uint8), np.full((4, 20), 2, np.uint8)]
    offsets = (TileOffset(0, 0, "reference", None), TileOffset(1, 10, "measured", 0.9))
    labels = stitch_labels(tiles, offsets=offsets, fill=255)
    assert labels[2].tolist() == [1] * 15 + [2] * 15
    assert labels[0, 29] == 255


@pytest.mark.parametrize(
    ("count", "orientation", "expected"),
    [
        (3, "horizontal", (3420, 1440)),
        (3, "vertical", (3420, 1890)),
        (2, "vertical", (2400, 1890)),
        (1, "vertical", (1440, 1920)),
    ],
)
def test_canvas_of_the_real_geometry(count: int, orientation: Orientation, expected: tuple[int, int]) -> None:
    assert canvas_shape((1440, 1920), count=count, orientation=orientation, overlap=0.3, rule="well") == expected


def test_canvas_of_the_whole_mosaic() -> None:
    assert canvas_shape((480, 640), count=3, orientation="horizontal", overlap=0.3, rule="mosaic") == (1536, 480)
    assert canvas_shape((480, 640), count=4, orientation="vertical", overlap=0.3, rule="well") == (1488, 640)


def test_canvas_is_cut_and_padded_about_the_centre() -> None:
    picture = np.arange(1, 13, dtype=np.uint8).reshape(2, 6)
    expected = np.array([[0, 0, 0, 0], [2, 3, 4, 5], [8, 9, 10, 11], [0, 0, 0, 0]], np.uint8)
    np.testing.assert_array_equal(fit_canvas(picture, shape=(4, 4), fill=0), expected)


def test_orientation_follows_the_year_unless_told() -> None:
    assert choose_orientation("auto", year=2023) == "vertical"
    assert choose_orientation("auto", year=2024) == "horizontal"
    assert choose_orientation("vertical", year=2025) == "vertical"
