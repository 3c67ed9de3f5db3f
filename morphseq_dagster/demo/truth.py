"""What is true about a demo plate: masks, identity, tile offsets, sharpest planes, deaths.

Coordinates
-----------
All are (row, column), pixels, before inversion (which moves nothing).

- *Tile frame*: pixel (0, 0) is the first pixel of tile 1 as acquired. `FrameTruth.tile_offsets_px[i]` is the
  position of tile `i + 1` in it, so the first is (0, 0); offsets are whole and may be negative across the row.
- *Mosaic frame*: the smallest rectangle that holds all tiles; its pixel (0, 0) lies at
  `FrameTruth.mosaic_origin_px` of the tile frame (0 or negative). Masks, plane maps and boxes are stored in it, as
  acquired: neither transposed nor cropped.
- *Canvas frame*: the stitched picture. Mosaics of orientation `horizontal` are transposed (rows and columns
  swapped), then cut or zero-padded about the centre to the canvas (spec 3.5); what is cut from (added to) the
  front of an axis is the smaller half when the difference is odd.

For `Frames` experiments there is one tile without offset and the three frames are the same.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import numpy.typing as npt
from pydantic import TypeAdapter, ValidationError

from morphseq_dagster.demo.levels import Difficulty
from morphseq_dagster.errors import PermanentError

Orientation = Literal["horizontal", "vertical", "none"]
WellKind = Literal["embryo", "dying", "empty"]
Labels = npt.NDArray[np.uint8]
Box = tuple[float, float, float, float]

TRUTH_FILE = "truth.json"
OUTSIDE = 255
"""Value of the plane maps outside the embryo."""


@dataclass(frozen=True)
class FrameTruth:
    """One well at one time.

    Attributes
    ----------
    time_int, time_s
        Frame number, and seconds since the first picture of the experiment.
    age_hpf
        Developmental age; it stops at death. None in an empty well.
    opacity
        0 alive, 1 dead and opaque; between them at the frame of death. None in an empty well.
    body_area_px
        Pixels of the mask; 0 in an empty well.
    body_box_px, chorion_box_px
        First row, first column, last row, last column, half-open, mosaic frame; None when there is none. The
        chorion's are fractional.
    """

    time_int: int
    time_s: float
    age_hpf: float | None
    opacity: float | None
    mosaic_origin_px: tuple[int, int]
    mosaic_shape_px: tuple[int, int]
    tile_offsets_px: tuple[tuple[int, int], ...]
    body_area_px: int
    body_box_px: Box | None
    chorion_box_px: Box | None


@dataclass(frozen=True)
class WellTruth:
    """One well.

    Attributes
    ----------
    series
        Raw folder, such as `XY01`; empty for `Frames`.
    kind
        `embryo`, `dying` or `empty`.
    embryo_id
        Identity in every frame; None in an empty well.
    death_time_int, death_time_s
        First frame in which the embryo is opaque; None when it lives.
    head_plane, trunk_plane, tail_plane
        Heights in plane steps, 0 = first plane; None in an empty well. Yolk and trunk share one.
    """

    well: str
    series: str
    kind: WellKind
    embryo_id: str | None
    has_chorion: bool
    death_time_int: int | None
    death_time_s: float | None
    head_plane: float | None
    trunk_plane: float | None
    tail_plane: float | None
    frames: tuple[FrameTruth, ...]


@dataclass(frozen=True)
class PlateTruth:
    """The whole plate.

    Attributes
    ----------
    experiment, source
        Experiment id and `Keyence` or `Frames`.
    orientation
        Direction of the row of tiles; `none` for `Frames`.
    tile_shape_px
        (rows, columns) of a tile as acquired.
    """

    experiment: str
    source: Literal["Keyence", "Frames"]
    difficulty: Difficulty
    seed: int
    um_per_px: float
    orientation: Orientation
    tile_shape_px: tuple[int, int]
    planes: int
    wells: tuple[WellTruth, ...]


def write_truth(folder: Path, *, truth: PlateTruth) -> None:
    """Write the records beside the masks that the maker already laid there."""
    text = json.dumps(dataclasses.asdict(truth), indent=1, sort_keys=True)
    (folder / TRUTH_FILE).write_text(text + "\n", encoding="utf-8")


def read_truth(folder: Path) -> PlateTruth:
    """Read the records of a demo plate.

    Raises
    ------
    PermanentError
        When the file is missing or is not the truth of a plate.
    """
    path = folder / TRUTH_FILE
    try:
        return TypeAdapter(PlateTruth).validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise PermanentError(
            expected="the truth of a demo plate",
            found=str(error),
            where=str(path),
            remedy="make the demo plate again",
        ) from error


def write_map(folder: Path, *, kind: Literal["masks", "planes"], well: str, time_int: int, labels: Labels) -> None:
    """Store a label image as PNG."""
    path = folder / kind / f"{well}_t{time_int:04d}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    done, data = cv2.imencode(".png", labels)
    if not done:
        raise ValueError(f"no PNG could be made of an array of shape {labels.shape}")
    path.write_bytes(data.tobytes())
