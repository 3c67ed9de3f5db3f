"""Staging: what a step made, written under temporary names, checked and hashed, but not yet published.

A file's bytes or a set of picture folders can be staged, after their contract was checked (`engine/tables`);
`commit.py` publishes them.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from morphseq_dagster.backends import BackendIdentity
from morphseq_dagster.engine.layout import Layout
from morphseq_dagster.engine.storage.atomic_io import (
    link_or_copy,
    make_folder,
    remove_folder,
    stage_file,
    sync_tree,
    temporary_beside,
    write_file,
)
from morphseq_dagster.engine.storage.hashing import hash_bytes
from morphseq_dagster.engine.storage.records import OutputState, WellState, describe_output

Status = Literal["ok", "degraded", "unavailable"]


@dataclass(frozen=True)
class StagedUnit:
    """A file or folder under a temporary name, beside the target that it will replace."""

    temporary: Path
    target: Path
    kind: Literal["file", "folder"]


@dataclass(frozen=True)
class Staged:
    """A step's output, complete and checked, awaiting its commit.

    Parameters
    ----------
    primary
        Final path of the file that readers open first.
    units
        What will be renamed; the unit with the primary file comes last.
    sha256
        Content hash of the primary file.
    data_version
        What consumers compare; the content hash, unless the artifact carries times (the raw manifest).
    counts
        Rows, pictures, embryos, ... for people.
    wells
        Outcome per well.
    preview
        Small PNG for people, or None.
    """

    primary: Path
    units: tuple[StagedUnit, ...]
    sha256: str
    data_version: str
    status: Status = "ok"
    counts: Mapping[str, int] = field(default_factory=dict)
    wells: Mapping[str, WellState] = field(default_factory=dict)
    backend: BackendIdentity | None = None
    warnings: tuple[str, ...] = ()
    preview: bytes | None = None

    @property
    def staged_primary(self) -> Path:
        """Where the primary file lies before the commit."""
        unit = self.units[-1]
        if unit.kind == "file":
            return unit.temporary
        return unit.temporary / self.primary.relative_to(unit.target)

    def describe(self, layout: Layout) -> OutputState:
        """Describe it for its record; the listing names the folder with the primary file first, as the layout does."""
        folders = tuple((unit.target, unit.temporary) for unit in self.units if unit.kind == "folder")
        return describe_output(
            layout,
            primary=self.primary,
            staged_primary=self.staged_primary,
            sha256=self.sha256,
            folders=folders[-1:] + folders[:-1],
        )

    def discard(self) -> None:
        """Remove everything staged."""
        for unit in self.units:
            if unit.kind == "file":
                unit.temporary.unlink(missing_ok=True)
            else:
                remove_folder(unit.temporary)


def stage_bytes(primary: Path, *, data: bytes) -> tuple[tuple[StagedUnit, ...], str]:
    """Stage a single file; return its unit and content hash."""
    return (StagedUnit(stage_file(primary, data), primary, "file"),), hash_bytes(data)


class FolderStage:
    """Folders of an image set while they are being filled.

    Parameters
    ----------
    layout
        Paths of the data root.
    folders
        Final folders, the one that will hold the manifest first.
    """

    def __init__(self, layout: Layout, *, folders: tuple[Path, ...]) -> None:
        self._layout = layout
        self._units = tuple(StagedUnit(temporary_beside(f), f, "folder") for f in folders)
        try:
            for unit in self._units:
                make_folder(unit.target.parent)
                unit.temporary.mkdir()
        except BaseException:
            self.discard()
            raise

    def add_link(self, target: Path, *, source: Path) -> None:
        """Take a finished file of the same step (checkpoint or earlier version) without copying its bytes."""
        path = self._staged(target)
        path.parent.mkdir(parents=True, exist_ok=True)
        link_or_copy(source, path)

    def add_copy(self, target: Path, *, source: Path) -> None:
        """Take a file of another program's tree, which may be rewritten there at any time."""
        path = self._staged(target)
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, path)

    def finish(self, primary: Path, *, manifest: bytes) -> tuple[tuple[StagedUnit, ...], str]:
        """Write the manifest last, flush everything, and return the units (the manifest's last) and its hash."""
        path = self._staged(primary)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_file(path, manifest)
        for unit in self._units:
            sync_tree(unit.temporary)
        return (*self._units[1:], self._units[0]), hash_bytes(manifest)

    def discard(self) -> None:
        """Remove what was staged."""
        for unit in self._units:
            remove_folder(unit.temporary)

    def _staged(self, target: Path) -> Path:
        for unit in self._units:
            if target.is_relative_to(unit.target):
                return unit.temporary / target.relative_to(unit.target)
        raise ValueError(f"{target} lies in none of {os.pathsep.join(str(u.target) for u in self._units)}")
