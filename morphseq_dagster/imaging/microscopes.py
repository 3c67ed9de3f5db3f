"""Choice of the reader for a raw folder.

Holds `open_source`. Does not hold discovery of experiments: the caller knows which microscope a folder belongs to.
"""

from __future__ import annotations

from pathlib import Path

from morphseq_dagster.imaging.frames_folder import FramesFolderSource
from morphseq_dagster.imaging.keyence import KeyenceSource
from morphseq_dagster.imaging.parameters import FocusSettings
from morphseq_dagster.imaging.sources import Microscope, RawSource
from morphseq_dagster.imaging.yx1 import Yx1Source


def open_source(folder: Path, *, microscope: Microscope, settings: FocusSettings | None = None) -> RawSource:
    """Open the raw folder of one experiment; nothing is read yet.

    Parameters
    ----------
    folder
        `raw_image_data/{microscope}/{exp}`; its name is the experiment.
    microscope
        Kind of source.
    settings
        Used by scans that depend on them (channel, tiles per well); None takes the defaults.
    """
    if microscope == "Keyence":
        return KeyenceSource(folder, settings=settings or FocusSettings())
    if microscope == "YX1":
        return Yx1Source(folder)
    return FramesFolderSource(folder)
