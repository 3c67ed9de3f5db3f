"""Registered inputs: files that a microscope, a lab or a person supplies, found for one experiment and hashed.

`pipeline.py` names these finders; a file with one fixed place needs none, its path in `paths.py` is enough. Absent is
None; two raw folders of one name are an error.
"""

from __future__ import annotations

from pathlib import Path

from morphseq_dagster.engine.layout import Layout
from morphseq_dagster.engine.storage.file_lists import list_names
from morphseq_dagster.engine.storage.hashing import hash_bytes
from morphseq_dagster.errors import PermanentError
from morphseq_dagster.morphseq.paths import MICROSCOPES, SENTINELS, raw_folder, raw_root, workbook_folders


def find_raw_folder(layout: Layout, experiment: str) -> Path | None:
    """Raw folder of an experiment.

    Raises
    ------
    PermanentError
        When two microscopes have a folder of this name.
    """
    found = [f for m in MICROSCOPES if (f := raw_folder(layout, m, experiment=experiment)).is_dir()]
    if len(found) > 1:
        raise PermanentError(
            expected="the raw folder below one microscope",
            found="several: " + ", ".join(layout.relative(f) for f in found),
            where=f"experiment {experiment}",
            remedy="rename one of the folders",
        )
    return found[0] if found else raw_root(layout) / MICROSCOPES[0] / experiment


def is_raw_file(name: str) -> bool:
    """Whether a file, named relative to its raw folder, is part of the acquisition: no hidden file, no sentinel."""
    return name not in SENTINELS and not name.rpartition("/")[2].startswith(".")


def digest_listing(layout: Layout, folder: Path) -> str:
    """Digest of path, size and time of every raw file: says whether to look again, not what changed."""
    del layout
    lines = [f"{name}\0{s.st_size}\0{s.st_mtime_ns}" for name, s in list_names(folder) if is_raw_file(name)]
    return hash_bytes("\n".join([folder.parent.name, *sorted(lines)]).encode())


def find_plate_workbook(layout: Layout, experiment: str) -> Path | None:
    """Plate workbook by the search order of the spec (science 2)."""
    from morphseq_dagster.plate.workbook import find_workbook

    return find_workbook(workbook_folders(layout), experiment=experiment).path
