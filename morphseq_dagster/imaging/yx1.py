"""Nikon YX1 experiments: one .nd2 file per raw folder, whose pixels are not read yet."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from morphseq_dagster.errors import PermanentError
from morphseq_dagster.imaging.parameters import FocusSettings
from morphseq_dagster.imaging.sources import FocusedFrame, Polarity, RawFrame, RawScan
from morphseq_dagster.imaging.stitching import TileStep


class Yx1Source:
    """Raw folder `raw_image_data/YX1/{exp}` of a Nikon YX1 experiment."""

    polarity: Polarity = "inverted"
    """YX1 pictures are delivered inverted (spec, finding 3)."""

    def __init__(self, folder: Path, *, settings: FocusSettings | None = None) -> None:
        del settings  # its scan depends on none
        self._folder = folder

    def find_file(self) -> Path:
        """Return the one .nd2 file of the folder.

        Raises
        ------
        PermanentError
            When there is none or more than one; all are named (spec 3.3).
        """
        found = sorted(p.name for p in self._folder.glob("*") if p.suffix.lower() == ".nd2" and p.name[0] != ".")
        if len(found) != 1:
            raise PermanentError(
                expected="exactly one .nd2 file",
                found=", ".join(found) if found else "no .nd2 file",
                where=str(self._folder),
                remedy="keep one .nd2 per experiment; further acquisitions are experiments of their own",
            )
        return self._folder / found[0]

    def scan(self) -> RawScan:
        """Check the folder, then refuse: listing the frames of an ND2 file is not supported yet."""
        raise _unsupported(self.find_file())

    def full_focus(
        self, frame: RawFrame, *, settings: FocusSettings, plate_steps: Sequence[TileStep | None] = ()
    ) -> FocusedFrame:
        """Refuse: reading ND2 pixels is not supported yet."""
        del frame, settings, plate_steps
        raise _unsupported(self.find_file())


def _unsupported(path: Path) -> PermanentError:
    return PermanentError(
        expected="a source whose pixels can be read (Keyence or Frames)",
        found="an ND2 file, which this version does not read",
        where=str(path),
        remedy="export focused pictures and a frames.csv to raw_image_data/Frames/{experiment}",
    )
