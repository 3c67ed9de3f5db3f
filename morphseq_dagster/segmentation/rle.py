"""Run lengths of masks in the form of COCO: column by column, packed into ASCII, wrapped in base64 (spec 3.3).

Run lengths alternate between 0 and 1 starting with 0; from the fourth run on the difference to the run two places
before is stored; numbers are cut into groups of five bits, low ones first, bit 5 tells that more follow, and 48 is
added to give ASCII.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from morphseq_dagster.errors import PermanentError

Mask = NDArray[np.bool_]
Runs = NDArray[np.int64]


@dataclass(frozen=True)
class Rle:
    """A mask as packed run lengths: `counts` in COCO's ASCII, `size` (height, width) in pixels."""

    counts: bytes
    size: tuple[int, int]

    def to_base64(self) -> str:
        """Text form of `counts` as stored in documents (spec 1.8)."""
        return base64.b64encode(self.counts).decode("ascii")

    @classmethod
    def from_base64(cls, text: str, *, size: tuple[int, int]) -> Rle:
        """Read the text form.

        Raises
        ------
        PermanentError
            When `text` is not base64.
        """
        try:
            return cls(base64.b64decode(text, validate=True), size)
        except (binascii.Error, ValueError) as error:
            raise _broken(f"text that is not base64 ({error})") from error


def _broken(found: str) -> PermanentError:
    return PermanentError(
        expected="COCO run lengths that fill the mask",
        found=found,
        where="run-length encoded mask",
        remedy="make the segmentation document again",
    )


def pack_runs(runs: Runs) -> bytes:
    """Run lengths to COCO's ASCII."""
    values = runs.astype(np.int64).copy()
    values[3:] -= runs[1:-2]
    packed = bytearray()
    for value in values.tolist():
        rest = value
        more = True
        while more:
            group = rest & 0x1F
            rest >>= 5
            more = rest != -1 if group & 0x10 else rest != 0
            packed.append((group | (0x20 if more else 0)) + 48)
    return bytes(packed)


def unpack_runs(packed: bytes) -> Runs:
    """COCO's ASCII to run lengths.

    Raises
    ------
    PermanentError
        When a byte is outside the alphabet, a number is cut off or a run is negative.
    """
    runs: list[int] = []
    value, shift, open_number = 0, 0, False
    for byte in packed:
        group = byte - 48
        if not 0 <= group < 64:
            raise _broken(f"byte {byte} outside the alphabet")
        value |= (group & 0x1F) << shift
        shift += 5
        open_number = bool(group & 0x20)
        if open_number:
            continue
        if group & 0x10:
            value -= 1 << shift
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        if runs[-1] < 0:
            raise _broken("a negative run")
        value, shift = 0, 0
    if open_number:
        raise _broken("a number that is cut off")
    return np.asarray(runs, dtype=np.int64)


def encode_crop(crop: Mask, *, top: int, left: int, size: tuple[int, int]) -> Rle:
    """Encode a mask given by a part whose first pixel lies at (top, left) of a picture of `size` (height, width)."""
    height, width = size
    rows, columns = crop.shape
    if top < 0 or left < 0 or top + rows > height or left + columns > width:
        raise ValueError(f"crop {crop.shape} at ({top}, {left}) leaves a picture of {size}")
    # Zero rows above and below make every column start and end outside the mask, so runs never join columns by
    # mistake; the position of a change in the crop is then moved to its position in the picture.
    flips = np.diff(np.pad(crop, ((1, 1), (0, 0))).astype(np.int8), axis=0).T
    column, row = np.nonzero(flips)
    at = (column + left) * height + row + top
    # A run that ends at the picture's last row and goes on in the next column's first row is one run.
    joined = np.flatnonzero(at[:-1] == at[1:])
    at = np.delete(at, np.concatenate([joined, joined + 1]))
    edges = np.concatenate([[0], at, [height * width]]).astype(np.int64)
    runs = np.diff(edges)
    if len(at) and at[-1] == height * width:
        runs = runs[:-1]
    return Rle(pack_runs(runs), (height, width))


def encode(mask: Mask) -> Rle:
    """Encode a (H, W) bool mask; only the occupied columns are looked at in detail."""
    height, width = mask.shape
    columns = np.flatnonzero(mask.any(axis=0))
    if len(columns) == 0:
        return Rle(pack_runs(np.asarray([height * width], dtype=np.int64)), (height, width))
    rows = np.flatnonzero(mask.any(axis=1))
    top, left = int(rows[0]), int(columns[0])
    crop = mask[top : int(rows[-1]) + 1, left : int(columns[-1]) + 1]
    return encode_crop(np.asarray(crop, dtype=np.bool_), top=top, left=left, size=(height, width))


def decode(rle: Rle) -> Mask:
    """Decode to a (H, W) bool mask.

    Raises
    ------
    PermanentError
        When the runs do not fill the picture exactly.
    """
    height, width = rle.size
    runs = unpack_runs(rle.counts)
    if int(runs.sum()) != height * width:
        raise _broken(f"{int(runs.sum())} pixels for a picture of {height} x {width}")
    values = np.arange(len(runs)) % 2 == 1
    return np.repeat(values, runs).reshape(width, height).T


def measure_area(rle: Rle) -> int:
    """Number of set pixels."""
    return int(unpack_runs(rle.counts)[1::2].sum())
