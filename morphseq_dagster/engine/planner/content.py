"""Content: whether the pictures of an image set are those of its manifest, and files have their proper ends.

What a document or a manifest demands beside is said by its own model (`engine/tables`). Nothing is written here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from morphseq_dagster.engine.layout import Layout
from morphseq_dagster.engine.storage.hashing import hash_file
from morphseq_dagster.engine.storage.records import list_tree
from morphseq_dagster.engine.tables.image_set import FileEntry

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
