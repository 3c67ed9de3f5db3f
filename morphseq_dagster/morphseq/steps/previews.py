"""Previews: small pictures that show a person at a glance whether a step did what it should.

They are contact sheets of frames, some with outlines and boxes drawn in. No step reads them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from morphseq_dagster.imaging.pictures import encode_png, read_grey

_Item = TypeVar("_Item")
THUMBNAIL_PX = 150
"""Longest side of one picture in a sheet."""
_GAP_PX = 2
MOST = 12
"""Pictures in one sheet: the whole sheet stays well below the size that an event log should carry."""


def contact_sheet(pictures: Sequence[Path]) -> bytes | None:
    """Make a sheet of evenly chosen frames; None when there are none."""
    chosen = choose(pictures)
    return sheet([shrink(read_grey(path).pixels.astype(np.uint8)) for path in chosen])


def choose(items: Sequence[_Item]) -> list[_Item]:
    """Choose at most `MOST` items, evenly spread and always the same."""
    if len(items) <= MOST:
        return list(items)
    return [items[round(i * (len(items) - 1) / (MOST - 1))] for i in range(MOST)]


def shrink(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Shrink a grey `(H, W)` or colour `(H, W, 3)` picture to the size of a thumbnail."""
    factor = THUMBNAIL_PX / max(picture.shape[:2])
    size = (max(1, round(picture.shape[1] * factor)), max(1, round(picture.shape[0] * factor)))
    return np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)


def sheet(thumbnails: Sequence[NDArray[np.uint8]]) -> bytes | None:
    """Lay thumbnails out in rows, six of square ones or more of narrow ones, and encode the sheet as PNG."""
    if not thumbnails:
        return None
    colour = any(t.ndim == 3 for t in thumbnails)
    cell_height, cell_width = (max(t.shape[axis] for t in thumbnails) + _GAP_PX for axis in (0, 1))
    columns = min(len(thumbnails), max(6, 6 * THUMBNAIL_PX // cell_width))
    rows = -(-len(thumbnails) // columns)
    shape = (rows * cell_height, columns * cell_width) + ((3,) if colour else ())
    canvas: NDArray[np.uint8] = np.full(shape, 32, dtype=np.uint8)
    for number, thumbnail in enumerate(thumbnails):
        row, column = divmod(number, columns)
        tile = np.repeat(thumbnail[..., None], 3, axis=2) if colour and thumbnail.ndim == 2 else thumbnail
        height, width = tile.shape[:2]
        top, left = row * cell_height, column * cell_width
        canvas[top : top + height, left : left + width] = tile
    if colour:
        return bytes(cv2.imencode(".png", canvas, [cv2.IMWRITE_PNG_COMPRESSION, 9])[1].tobytes())
    return encode_png(canvas, compression=9)


def draw_masks(
    frame: NDArray[np.uint8],
    *,
    masks: Sequence[NDArray[np.bool_]],
    boxes: Sequence[tuple[float, float, float, float]] = (),
) -> NDArray[np.uint8]:
    """Draw outlines of masks and normalised boxes into a shrunk copy: (h, w, 3) uint8, blue-green-red."""
    small = np.repeat(shrink(frame)[..., None], 3, axis=2)
    height, width = small.shape[:2]
    for number, mask in enumerate(masks):
        reduced = cv2.resize(mask.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST)
        outlines, _ = cv2.findContours(reduced, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(small, outlines, -1, _colour(number), 1)
    for number, (x0, y0, x1, y1) in enumerate(boxes):
        corners = (round(x0 * width), round(y0 * height)), (round(x1 * width) - 1, round(y1 * height) - 1)
        cv2.rectangle(small, *corners, _colour(number), 1)
    return small


def _colour(number: int) -> tuple[int, int, int]:
    """Colour of an embryo number: hues far apart for neighbouring numbers."""
    hue_saturation_value = np.array([[[(number * 67) % 180, 200, 255]]], dtype=np.uint8)
    pixel = cv2.cvtColor(hue_saturation_value, cv2.COLOR_HSV2BGR)[0, 0]
    return int(pixel[0]), int(pixel[1]), int(pixel[2])
