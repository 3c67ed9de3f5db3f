"""Untracked files: what lies at an artifact's place although no record accounts for it, and how it is put aside.

A publication names its files and its record in a journal before the first rename, so that a crash leaves temporaries or
something to roll forward, never a file under its final name without a record. Such a file is somebody else's - an older
program's, mostly - or its record was lost.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from morphseq_dagster.engine.layout import Layout
from morphseq_dagster.engine.storage.atomic_io import link_or_copy, make_folder, sync_folder
from morphseq_dagster.engine.storage.file_lists import list_names
from morphseq_dagster.engine.storage.hashing import hash_file


def find_untracked(layout: Layout, *, step: str, experiment: str, primary: Path) -> Iterator[Path]:
    """Yield the files at an artifact's place when it has no record: the primary file and pictures in its folders.

    Parameters
    ----------
    layout
        Paths of the data root.
    step, experiment
        Whose artifact.
    primary
        Its primary file.
    """
    if layout.record(primary).exists():
        return
    folders = layout.folders(step, experiment=experiment) if layout.artifact(step).folders else ()
    if primary.is_file():
        yield primary
    for folder in folders:
        names = list_names(folder) if folder.is_dir() else ()
        yield from (folder / name for name, _ in names if folder / name != primary)


def put_aside(layout: Layout, path: Path) -> Path:
    """Move a file out of the way, under its own path below `adopted_originals/`; return where it lies."""
    target = keep_aside(layout, path)
    sync_folder(target.parent)
    path.unlink()
    return target


def keep_aside(layout: Layout, path: Path) -> Path:
    """Give a file a second name below `adopted_originals/`, beside others that were kept from the same place."""
    first = target = layout.put_aside(layout.relative(path))
    number = 0
    while target.exists():
        if hash_file(target) == hash_file(path):
            return target
        number += 1
        target = first.with_name(f"{path.name}.{number}")
    make_folder(target.parent)
    link_or_copy(path, target)
    return target
