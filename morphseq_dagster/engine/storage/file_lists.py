"""File lists: the files of an image set as they lie on the disk, and how they compare with its manifest.

Records (`records.py`) keep the digest of a list; what a person may do about a difference is decided in
`engine/planner/reconcile.py`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from morphseq_dagster.engine.layout import FAILURE_SUFFIX, RECORD_SUFFIX, TEMPORARY_SUFFIX, Layout
from morphseq_dagster.engine.storage.hashing import hash_bytes, hash_file
from morphseq_dagster.engine.tables.image_set import FileEntry

_PASSED_OVER = (RECORD_SUFFIX, FAILURE_SUFFIX, TEMPORARY_SUFFIX)
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


def digest_listing(folders: tuple[Path, ...]) -> str:
    """Digest name, size, time and inode of every file below the folders; records and temporaries do not count."""
    lines = []
    for number, folder in enumerate(folders):
        for name, status in list_names(folder):
            lines.append(f"{number}\0{name}\0{status.st_size}\0{status.st_mtime_ns}\0{status.st_ino}")
    return hash_bytes("\n".join(sorted(lines)).encode())


def list_tree(folder: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """Yield the files below a folder that belong to an artifact or acquisition: no records, no temporaries."""
    for name, status in list_names(folder):
        yield folder / name, status


def list_names(folder: Path, prefix: str = "") -> Iterator[tuple[str, os.stat_result]]:
    """Yield the same files by their paths relative to the folder; a path object per file would cost most of the time.

    Parameters
    ----------
    folder
        Where to look.
    prefix
        Set before every name.
    """
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield from list_names(Path(entry.path), f"{prefix}{entry.name}/")
            elif not entry.name.endswith(_PASSED_OVER):
                yield f"{prefix}{entry.name}", entry.stat()
