"""Content: whether files that the pipeline did not write just now are what their artifact promises.

Holds the checks beyond the form: pictures against their manifest, masks that can be decoded. Writes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from pydantic import BaseModel

from morphseq_dagster.engine.layout import Layout
from morphseq_dagster.engine.storage.hashing import hash_file
from morphseq_dagster.engine.storage.records import list_tree
from morphseq_dagster.engine.tables.image_set import FileEntry, ImageSetManifest
from morphseq_dagster.errors import ContractError, MorphseqError
from morphseq_dagster.morphseq.contracts.exported_masks import ExportedMasks
from morphseq_dagster.morphseq.contracts.ff_images import FfImages
from morphseq_dagster.morphseq.contracts.organized_frames import OrganizedFrames
from morphseq_dagster.morphseq.contracts.segmentations import SegmentationDocument

_LISTED = 20
_JPEG_END, _PNG_END = b"\xff\xd9", b"IEND\xaeB`\x82"


class FileChange(StrEnum):
    """What happened to a file behind the pipeline's back."""

    EDITED = "edited"
    TRUNCATED = "truncated"
    REPLACED = "replaced"
    DELETED = "deleted"
    ADDED = "added"


@dataclass(frozen=True)
class PictureChange:
    """One picture of an image set that is not what the manifest says."""

    path: str
    change: FileChange


def compare_pictures(
    layout: Layout, *, files: Mapping[str, FileEntry], folders: tuple[Path, ...], primary: Path
) -> tuple[PictureChange, ...]:
    """Compare every picture of an image set with its manifest, by size and then by hash.

    Parameters
    ----------
    layout
        Paths of the data root.
    files
        Entries of the manifest by path.
    folders, primary
        Folders of the set and its manifest.
    """
    present = {layout.relative(p): s for folder in folders if folder.is_dir() for p, s in list_tree(folder)}
    present.pop(layout.relative(primary), None)
    changes = [PictureChange(path, FileChange.ADDED) for path in present.keys() - files.keys()]
    for path, entry in files.items():
        status = present.get(path)
        if status is None:
            changes.append(PictureChange(path, FileChange.DELETED))
        elif status.st_size != entry.size or hash_file(layout.absolute(path)) != entry.sha256:
            cut = status.st_size < entry.size and is_cut_off(layout.absolute(path))
            changes.append(PictureChange(path, FileChange.TRUNCATED if cut else FileChange.EDITED))
    return tuple(sorted(changes, key=lambda c: c.path))


def is_cut_off(path: Path) -> bool:
    """Whether a file lacks the end that every file of its kind has; empty files do."""
    with path.open("rb") as handle:
        size = handle.seek(0, 2)
        handle.seek(max(0, size - 16))
        tail = handle.read()
    match path.suffix.lower():
        case ".jpg":
            return not tail.rstrip(b"\0").endswith(_JPEG_END)
        case ".png":
            return not tail.endswith(_PNG_END)
        case _:
            return not tail.endswith(b"\n")


def check_picture(path: Path, *, shape: tuple[int, int] | None, where: str) -> None:
    """Decode a picture and compare its size.

    Raises
    ------
    ContractError
        When it cannot be decoded to one grey channel of that shape.
    """
    from morphseq_dagster.imaging.pictures import read_grey

    try:
        found = read_grey(path).pixels.shape
        problem = f"{found[0]} x {found[1]} px" if shape is not None and found != shape else ""
    except MorphseqError as error:
        problem = error.found
    if problem:
        raise ContractError(
            expected="a grey picture" + (f" of {shape[0]} x {shape[1]} px" if shape is not None else ""),
            found=problem,
            where=where,
            remedy="restore the picture, or discard the edit so that it is made again",
        )


def picture_shape(manifest: ImageSetManifest, path: str) -> tuple[int, int] | None:
    """Height and width in pixels that a manifest promises for a picture; None when it promises none."""
    if isinstance(manifest, FfImages):
        return next(((f.height_px, f.width_px) for f in manifest.frames if f.path == path), None)
    if isinstance(manifest, OrganizedFrames):
        return next(((e.height_px, e.width_px) for e in manifest.images.values() if e.path == path), None)
    if isinstance(manifest, ExportedMasks):
        return next((e.image_shape for e in manifest.exports.values() if e.output_path == path), None)
    return None


def check_masks(document: BaseModel, *, where: str) -> None:
    """Check that every mask of a segmentation document fills its picture.

    Raises
    ------
    ContractError
        Naming the masks that do not.
    """
    if not isinstance(document, SegmentationDocument):
        return
    from morphseq_dagster.segmentation.rle import Rle, unpack_runs

    problems = []
    for experiment in document.experiments.values():
        for video in experiment.videos.values():
            for image in video.image_ids.values():
                for embryo in image.embryos.values():
                    entry = embryo.segmentation
                    try:
                        runs = unpack_runs(Rle.from_base64(entry.counts, size=entry.size).counts)
                        filled = int(runs.sum())
                        told = "" if filled == entry.size[0] * entry.size[1] else f"{filled} pixels"
                    except MorphseqError as error:
                        told = error.found
                    if told:
                        problems.append(f"{embryo.snip_id}: {told}")
    if problems:
        raise ContractError(
            expected="masks whose run lengths fill the picture",
            found=f"{len(problems)} problems: " + "; ".join(problems[:_LISTED]),
            where=where,
            remedy="restore the document or make it again",
        )
