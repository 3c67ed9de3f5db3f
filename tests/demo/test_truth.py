"""Records of truth: round trip and the map to the stitched picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from morphseq_dagster.demo.truth import (
    TRUTH_FILE,
    FrameTruth,
    Orientation,
    PlateTruth,
    WellTruth,
    read_truth,
    write_map,
    write_truth,
)
from morphseq_dagster.errors import PermanentError
from tests.support.plate_truth import read_mask, read_planes, truth_mask_on_canvas


def small_truth() -> PlateTruth:
    frame = FrameTruth(
        time_int=1,
        time_s=12.3,
        age_hpf=24.0,
        opacity=0.65,
        mosaic_origin_px=(-2, 0),
        mosaic_shape_px=(362, 816),
        tile_offsets_px=((0, 0), (-2, 336)),
        body_area_px=10,
        body_box_px=(1.0, 2.0, 3.0, 4.0),
        chorion_box_px=None,
    )
    well = WellTruth("A01", "XY01", "dying", "20240418_demo_A01_e01", False, 1, 12.3, 3.1, 2.0, 0.9, (frame,))
    return PlateTruth("20240418_demo", "Keyence", "hard", 7, 5.66, "horizontal", (360, 480), 5, (well,))


def test_truth_reads_back_as_written(tmp_path: Path) -> None:
    write_truth(tmp_path, truth=small_truth())
    assert read_truth(tmp_path) == small_truth()


@pytest.mark.parametrize("content", [None, b"", b"{}", b'{"experiment": 5}'])
def test_missing_or_broken_truth_names_the_file(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / TRUTH_FILE).write_bytes(content)
    with pytest.raises(PermanentError) as caught:
        read_truth(tmp_path)
    assert caught.value.where == str(tmp_path / TRUTH_FILE)


def test_maps_are_stored_without_loss(tmp_path: Path) -> None:
    labels = np.arange(12, dtype=np.uint8).reshape(3, 4)
    write_map(tmp_path, kind="masks", well="A01", time_int=3, labels=labels)
    write_map(tmp_path, kind="planes", well="A01", time_int=3, labels=255 - labels)
    assert np.array_equal(read_mask(tmp_path, well="A01", time_int=3), labels)
    assert np.array_equal(read_planes(tmp_path, well="A01", time_int=3), 255 - labels)


def test_horizontal_mosaic_is_transposed_then_cut_about_its_centre() -> None:
    mosaic = np.arange(18, dtype=np.uint8).reshape(2, 9)
    # Transposed to 9 x 2; 4 of 9 rows stay, 2 are cut in front; one column of fill on each side.
    on_canvas = truth_mask_on_canvas(mosaic, orientation="horizontal", canvas_shape=(4, 4), fill=99)
    expected = [[99, 2, 11, 99], [99, 3, 12, 99], [99, 4, 13, 99], [99, 5, 14, 99]]
    assert on_canvas.tolist() == expected


def test_vertical_mosaic_stays_upright() -> None:
    mosaic = np.arange(6, dtype=np.uint8).reshape(3, 2)
    on_canvas = truth_mask_on_canvas(mosaic, orientation="vertical", canvas_shape=(2, 3))
    assert on_canvas.tolist() == [[0, 1, 0], [2, 3, 0]]


def canvas_point(
    point_px: tuple[float, float],
    *,
    orientation: Orientation,
    mosaic_shape: tuple[int, int],
    canvas_shape: tuple[int, int],
) -> tuple[float, float]:
    """Bring one (row, column) from the mosaic frame onto the stitched picture."""
    swap = orientation == "horizontal"
    point = point_px[::-1] if swap else point_px
    shape = mosaic_shape[::-1] if swap else mosaic_shape
    moved = [
        at - max(have - want, 0) // 2 + max(want - have, 0) // 2
        for at, have, want in zip(point, shape, canvas_shape, strict=True)
    ]
    return moved[0], moved[1]


@given(
    shape=st.tuples(st.integers(1, 12), st.integers(1, 12)),
    canvas=st.tuples(st.integers(1, 12), st.integers(1, 12)),
    horizontal=st.booleans(),
    data=st.data(),
)
def test_point_and_mask_move_alike(
    shape: tuple[int, int], canvas: tuple[int, int], horizontal: bool, data: st.DataObject
) -> None:
    row, column = (data.draw(st.integers(0, size - 1)) for size in shape)
    mosaic = np.zeros(shape, np.uint8)
    mosaic[row, column] = 1
    orientation = "horizontal" if horizontal else "vertical"
    on_canvas = truth_mask_on_canvas(mosaic, orientation=orientation, canvas_shape=canvas)
    to_row, to_column = canvas_point((row, column), orientation=orientation, mosaic_shape=shape, canvas_shape=canvas)
    expected = np.zeros(canvas, np.uint8)
    if 0 <= to_row < canvas[0] and 0 <= to_column < canvas[1]:
        expected[int(to_row), int(to_column)] = 1
    assert np.array_equal(on_canvas, expected)
