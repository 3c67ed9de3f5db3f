"""What a microscope's raw folder offers: frames, problems, and one focused picture per frame.

The readers are entered in `microscopes.py`. A problem of one frame or well is data (`RawProblem`) and leaves the others
usable; a problem of the whole folder is a `PermanentError`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from morphseq_dagster.errors import PermanentError
from morphseq_dagster.imaging.parameters import FocusSettings
from morphseq_dagster.imaging.stitching import TileOffset, TileStep

Polarity = Literal["as_acquired", "inverted"]
NO_PLANE = 255
"""Value of `FocusedFrame.plane_index` where no tile covers the canvas."""


@dataclass(frozen=True)
class RawFrame:
    """One picture to be: a well, a time point and the files it is made of.

    Attributes
    ----------
    time_int
        Frame number, 0 to 9999.
    channel
        Channel number as used in image ids, 0 to 99.
    tiles
        Per tile its planes in order, as paths relative to the experiment's raw folder with forward slashes.
    time_s
        Time in seconds on the source's own clock; None when only the pixels' files tell it.
    um_per_px
        Pixel size in um; None when unknown or told by the pixels' files.
    """

    well: str
    time_int: int
    channel: int
    tiles: tuple[tuple[str, ...], ...]
    time_s: float | None
    um_per_px: float | None

    @property
    def files(self) -> tuple[str, ...]:
        """All files of the frame, tile by tile."""
        return tuple(path for tile in self.tiles for path in tile)


@dataclass(frozen=True)
class RawProblem:
    """Why a frame, a well or a file cannot be used.

    Attributes
    ----------
    well, time_int
        What is lost; None where that is unknown (well) or where the whole well is lost (time_int).
    where
        File, folder or row.
    expected, found, remedy
        As in the project's errors.
    """

    well: str | None
    time_int: int | None
    where: str
    expected: str
    found: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.where}: expected {self.expected}; found {self.found}. Remedy: {self.remedy}"


@dataclass(frozen=True)
class RawScan:
    """Everything that a raw folder holds; its usable frames are sorted by well, channel and time_int.

    Attributes
    ----------
    problems
        What is not usable, in the order met; a frame named here is not among `frames`.
    """

    frames: tuple[RawFrame, ...]
    problems: tuple[RawProblem, ...]

    @property
    def wells(self) -> tuple[str, ...]:
        """Wells with at least one usable frame, sorted."""
        return tuple(sorted({frame.well for frame in self.frames}))

    def frames_of(self, well: str) -> tuple[RawFrame, ...]:
        """Usable frames of one well."""
        return tuple(frame for frame in self.frames if frame.well == well)

    def problems_of(self, well: str | None) -> tuple[RawProblem, ...]:
        """Problems of one well; None gives those whose well is unknown."""
        return tuple(problem for problem in self.problems if problem.well == well)


@dataclass(frozen=True)
class FocusedFrame:
    """One finished picture and where it came from.

    Attributes
    ----------
    pixels
        `(H, W)` uint8 in the polarity of its source.
    time_s
        Seconds on the source's own clock; only differences mean something.
    objective, channel_name
        Names from the raw metadata, None when it has none.
    width_px, height_px
        Size of one raw field (a tile), which is what the frame metadata table tells.
    sources
        (relative path, SHA-256) of every file read, in the frame's order.
    plane_index
        `(H, W)` uint8, 0-based plane of each pixel; `NO_PLANE` on padding; None where there was no stack.
    encoded
        The source's own bytes when it is an 8-bit grey JPEG that was not changed; None otherwise.
    """

    pixels: NDArray[np.uint8]
    um_per_px: float | None
    time_s: float | None
    objective: str | None
    channel_name: str | None
    width_px: int
    height_px: int
    sources: tuple[tuple[str, str], ...]
    plane_index: NDArray[np.uint8] | None
    tile_offsets: tuple[TileOffset, ...]
    encoded: bytes | None


class RawSource(Protocol):
    """Reader of one experiment's raw folder."""

    @property
    def polarity(self) -> Polarity:
        """Polarity of the pictures that `full_focus` returns."""
        ...

    def scan(self) -> RawScan:
        """List frames and problems without decoding pixels.

        Raises
        ------
        PermanentError
            When nothing of the folder can be used; all problems are named.
        """
        ...

    def full_focus(
        self, frame: RawFrame, *, settings: FocusSettings, plate_steps: Sequence[TileStep | None] = ()
    ) -> FocusedFrame:
        """Read one frame and make its picture.

        Parameters
        ----------
        settings
            Parameters; equal files and settings give equal pixels.
        plate_steps
            Usual steps between tiles of this plate, from `stitching.estimate_plate_steps`: taken where a frame's own
            tiles do not show theirs.

        Raises
        ------
        PermanentError
            When a file of this frame cannot be used. Other frames are not concerned.
        """
        ...


def refuse_folder(folder: str, *, expected: str, problems: Sequence[RawProblem], remedy: str) -> PermanentError:
    """Make the error that ends an experiment, naming all problems at once."""
    found = "; ".join(f"{problem.where}: {problem.found}" for problem in problems) or "nothing usable"
    remedies = dict.fromkeys(problem.remedy for problem in problems)
    return PermanentError(
        expected=expected, found=found, where=folder, remedy="; ".join(remedies) if remedies else remedy
    )
