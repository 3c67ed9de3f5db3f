"""The raw readers, one entry each: which microscope, what its folders must hold, and what reads them.

Discovery (`morphseq/discovery.py`) asks an entry about the names in a folder; `open_source` opens one. What a reader
offers stands in `sources.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from morphseq_dagster.backends import import_named
from morphseq_dagster.imaging.parameters import FocusSettings

if TYPE_CHECKING:
    from morphseq_dagster.imaging.sources import RawSource


@dataclass(frozen=True)
class RawReader:
    """One kind of raw folder.

    Parameters
    ----------
    microscope
        Name of the folder below `raw_image_data` that holds the experiments.
    source
        `module:class` of the reader, imported when a folder is opened.
    refuse
        Says by the visible files of a folder, as paths relative to it, why it holds no such acquisition; empty when it
        may hold one.
    table
        File that lists the pictures to come; empty when none does.
    """

    microscope: str
    source: str
    refuse: Callable[[Sequence[str]], str]
    table: str = ""


def _refuse_keyence(files: Sequence[str]) -> str:
    return "" if any(path.lower().endswith((".tif", ".tiff")) for path in files) else "no TIFF file"


def _refuse_yx1(files: Sequence[str]) -> str:
    found = [path for path in files if "/" not in path and path.lower().endswith(".nd2")]
    return "" if len(found) == 1 else f"exactly one .nd2 file is expected; found {', '.join(found) or 'none'}"


def _refuse_frames(files: Sequence[str]) -> str:
    columns = "well,time_int,time_s,path,um_per_px"
    return "" if "frames.csv" in files else f"frames.csv missing: it lists the pictures as {columns}"


READERS: Final = {
    reader.microscope: reader
    for reader in (
        RawReader("Keyence", "morphseq_dagster.imaging.keyence:KeyenceSource", _refuse_keyence),
        RawReader("YX1", "morphseq_dagster.imaging.yx1:Yx1Source", _refuse_yx1),
        RawReader(
            "Frames", "morphseq_dagster.imaging.frames_folder:FramesFolderSource", _refuse_frames, table="frames.csv"
        ),
    )
}
"""By microscope, in the order in which folders are looked for."""


def open_source(folder: Path, *, microscope: str, settings: FocusSettings | None = None) -> RawSource:
    """Open the raw folder `raw_image_data/{microscope}/{exp}` of one experiment; nothing is read yet.

    The settings are used by scans that depend on them (channel, tiles per well).
    """
    source: RawSource = import_named(READERS[microscope].source)(folder, settings=settings or FocusSettings())
    return source
