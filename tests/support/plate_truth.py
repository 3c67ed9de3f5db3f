"""The truth of a demo plate as tests compare with it: maps read back, and brought onto the stitched picture."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import cv2
import numpy as np

from morphseq_dagster.demo.truth import FrameTruth, Labels, Orientation, PlateTruth, WellTruth


def find_well(truth: PlateTruth, name: str) -> WellTruth:
    (found,) = (well for well in truth.wells if well.well == name)
    return found


def find_frame(truth: PlateTruth, name: str, *, time_int: int) -> FrameTruth:
    (found,) = (frame for frame in find_well(truth, name).frames if frame.time_int == time_int)
    return found


def read_mask(folder: Path, *, well: str, time_int: int) -> Labels:
    """Body mask in the mosaic frame: `(H, W)` uint8, 1 on body and yolk (not chorion), else 0."""
    return _read_map(folder, kind="masks", well=well, time_int=time_int)


def read_planes(folder: Path, *, well: str, time_int: int) -> Labels:
    """Sharpest plane in the mosaic frame: `(H, W)` uint8, plane number from 0, 255 outside the embryo."""
    return _read_map(folder, kind="planes", well=well, time_int=time_int)


def truth_mask_on_canvas(
    labels: Labels,
    *,
    orientation: Orientation,
    canvas_shape: tuple[int, int],
    fill: int = 0,
) -> Labels:
    """Bring a mask or plane map from the mosaic frame onto the stitched picture.

    Parameters
    ----------
    labels
        `(H, W)` in the mosaic frame.
    orientation
        `PlateTruth.orientation`; `horizontal` is transposed.
    canvas_shape
        (rows, columns) of the stitched picture.
    fill
        Value where the canvas is larger than the mosaic: 0 for masks, 255 for plane maps.

    Returns
    -------
    numpy.ndarray
        `canvas_shape` uint8.
    """
    turned = labels.T if orientation == "horizontal" else labels
    canvas = np.full(canvas_shape, fill, np.uint8)
    target, source = [], []
    for have, want in zip(turned.shape, canvas_shape, strict=True):
        cut, pad = max(have - want, 0) // 2, max(want - have, 0) // 2
        size = min(have, want)
        source.append(slice(cut, cut + size))
        target.append(slice(pad, pad + size))
    canvas[target[0], target[1]] = turned[source[0], source[1]]
    return canvas


def _read_map(folder: Path, *, kind: Literal["masks", "planes"], well: str, time_int: int) -> Labels:
    data = (folder / kind / f"{well}_t{time_int:04d}.png").read_bytes()
    labels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE)
    assert labels is not None
    return labels.astype(np.uint8, copy=False)
