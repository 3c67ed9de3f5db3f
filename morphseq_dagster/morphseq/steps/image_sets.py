"""Image sets as steps read and write them: file entries of a manifest, frames decoded with a bright background."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from morphseq_dagster.engine.contract.context import StepContext
from morphseq_dagster.engine.layout import Layout
from morphseq_dagster.engine.storage.hashing import hash_file
from morphseq_dagster.engine.tables.image_set import FileEntry, ImageSetManifest
from morphseq_dagster.imaging.pictures import decode_grey
from morphseq_dagster.morphseq.contracts.organized_frames import ImageEntry, OrganizedFrames


def link_entries(layout: Layout, files: Mapping[Path, Path]) -> dict[str, FileEntry]:
    """Entries of a manifest for files to be published: final path to finished file."""
    return {
        layout.relative(target): FileEntry(sha256=hash_file(source), size=source.stat().st_size)
        for target, source in sorted(files.items())
    }


@dataclass(frozen=True)
class FrameReader:
    """One frame, read and verified when it is needed, always with a bright background."""

    context: StepContext
    manifest: OrganizedFrames
    entry: ImageEntry

    def read(self) -> NDArray[np.uint8]:
        """Decode the frame: (H, W) uint8, embryo darker than the background."""
        pixels = self.read_as_published()
        return 255 - pixels if self.manifest.polarity == "inverted" else pixels

    def read_as_published(self) -> NDArray[np.uint8]:
        """Decode the frame in the polarity in which it is published."""
        return read_picture(self.context, manifest=self.manifest, path=self.entry.path)


def read_picture(context: StepContext, *, manifest: ImageSetManifest, path: str) -> NDArray[np.uint8]:
    """Read and decode one picture of an image set: (H, W) uint8."""
    pixels = decode_grey(context.picture(path, entry=manifest.files[path]), where=path).pixels
    return np.asarray(pixels, dtype=np.uint8)
