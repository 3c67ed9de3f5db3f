from __future__ import annotations

from itertools import groupby

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.typing import NDArray
from pycocotools import mask as coco

from morphseq_dagster.errors import PermanentError
from morphseq_dagster.segmentation.rle import Rle, decode, encode, encode_crop, measure_area, pack_runs, unpack_runs

masks = arrays(np.bool_, array_shapes(min_dims=2, max_dims=2, max_side=12))


def count_runs_slowly(mask: NDArray[np.bool_]) -> list[int]:
    """Runs by walking the pixels one by one, column by column."""
    pixels = [bool(mask[r, c]) for c in range(mask.shape[1]) for r in range(mask.shape[0])]
    runs = [(value, len(list(group))) for value, group in groupby(pixels)]
    return ([0] if runs[0][0] else []) + [length for _, length in runs]


def spec_mask() -> NDArray[np.bool_]:
    mask = np.zeros((6, 8), np.bool_)
    mask[1:4, 2:6] = True
    mask[4, 3] = True
    return mask


def test_vector_of_the_specification() -> None:
    rle = encode(spec_mask())

    assert unpack_runs(rle.counts).tolist() == [13, 3, 3, 4, 2, 3, 3, 3, 14]
    assert rle == Rle(b"=331OO10;", (6, 8))
    assert rle.to_base64() == "PTMzMU9PMTA7"
    assert measure_area(rle) == 13


def test_empty_mask_of_the_specification() -> None:
    assert encode(np.zeros((6, 8), np.bool_)).to_base64() == "YDE="


def test_mask_that_starts_at_the_first_pixel_starts_with_an_empty_run() -> None:
    assert unpack_runs(encode(np.ones((2, 3), np.bool_)).counts).tolist() == [0, 6]


def test_packing_by_hand() -> None:
    # 5 -> "5"; 40 = 8 + 32 -> group 8 with more (8 + 32 + 48 = "X"), group 1 ("1"); 1 -> "1"; then 38 - 40 = -2 ->
    # five bits 30, the rest is -1 with bit 4 set, so it ends: 30 + 48 = "N".
    assert pack_runs(np.array([5, 40, 1, 38])) == b"5X11N"


def test_large_run_takes_several_groups() -> None:
    # 4194304 = 2**22: groups 0 0 0 0 and 4; each but the last has bit 5: 32 + 48 = 80 = "P".
    assert pack_runs(np.array([2**22])) == b"PPPP4"
    assert unpack_runs(b"PPPP4").tolist() == [2**22]


@given(masks)
def test_runs_agree_with_a_walk_over_the_pixels(mask: NDArray[np.bool_]) -> None:
    assert unpack_runs(encode(mask).counts).tolist() == count_runs_slowly(mask)


@given(masks)
def test_packed_runs_are_those_of_coco(mask: NDArray[np.bool_]) -> None:
    rle = encode(mask)
    theirs = coco.encode(np.asfortranarray(mask.astype(np.uint8)))

    assert {"counts": rle.counts, "size": list(rle.size)} == theirs
    assert np.array_equal(coco.decode({"counts": rle.counts, "size": list(rle.size)}), mask)
    assert measure_area(rle) == coco.area(theirs)


@given(masks)
def test_round_trip(mask: NDArray[np.bool_]) -> None:
    rle = encode(mask)

    assert np.array_equal(decode(Rle.from_base64(rle.to_base64(), size=rle.size)), mask)
    assert measure_area(rle) == mask.sum()


@given(masks, st.integers(0, 3), st.integers(0, 3), st.integers(0, 3), st.integers(0, 3))
def test_crop_encodes_like_the_whole_picture(
    crop: NDArray[np.bool_], top: int, left: int, below: int, right: int
) -> None:
    size = (top + crop.shape[0] + below, left + crop.shape[1] + right)
    whole = np.zeros(size, np.bool_)
    whole[top : top + crop.shape[0], left : left + crop.shape[1]] = crop

    assert encode_crop(crop, top=top, left=left, size=size) == encode(whole)


@given(st.lists(st.integers(0, 2**31), min_size=1, max_size=30))
def test_packing_round_trip_of_any_runs(runs: list[int]) -> None:
    assert unpack_runs(pack_runs(np.array(runs))).tolist() == runs


@pytest.mark.parametrize("packed", [b"=331OO10", b"\x00", b"X", b"55N"])
def test_damaged_runs_are_refused(packed: bytes) -> None:
    with pytest.raises(PermanentError):
        decode(Rle(packed, (6, 8)))


def test_text_that_is_not_base64_is_refused() -> None:
    with pytest.raises(PermanentError, match="base64"):
        Rle.from_base64("=331OO10;", size=(6, 8))
