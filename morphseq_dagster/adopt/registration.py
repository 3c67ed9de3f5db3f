"""Registration: publish an adopted artifact with full provenance, through the ordinary commit.

What lay at its place before is kept aside, so that nothing is lost.
"""

from __future__ import annotations

import os
from pathlib import Path

from morphseq_dagster.adopt.context import Converted
from morphseq_dagster.engine.contract.step import StepRequest, StepSpec
from morphseq_dagster.engine.executors.execution import make_record
from morphseq_dagster.engine.layout import FAILURE_SUFFIX, RECORD_SUFFIX, Layout
from morphseq_dagster.engine.storage.atomic_io import is_temporary
from morphseq_dagster.engine.storage.checkpoints import clear_checkpoints
from morphseq_dagster.engine.storage.commit import commit
from morphseq_dagster.engine.storage.hashing import hash_bytes, hash_file
from morphseq_dagster.engine.storage.records import AdoptedFrom, Record, timestamp
from morphseq_dagster.engine.storage.staging import FolderStage, Staged, stage_bytes
from morphseq_dagster.engine.storage.untracked_files import keep_aside

PLACE = "adoption"


def register(layout: Layout, *, spec: StepSpec, request: StepRequest, converted: Converted) -> Record:
    """Publish a converted artifact; the caller holds the step's lock.

    Parameters
    ----------
    layout
        Paths of the data root.
    spec, request
        The step and the request that it would run with now, which the record will answer.
    converted
        What is published.

    Raises
    ------
    OSError
        When the disk refuses; the earlier version stands then.
    """
    primary = layout.absolute(request.output)
    folders = layout.folders(spec.name, experiment=request.experiment) if converted.files else ()
    _put_aside(layout, primary=primary, folders=folders, converted=converted)
    staged = _stage(layout, primary=primary, folders=folders, converted=converted)
    try:
        record = _make_record(layout, request=request, converted=converted, staged=staged)
    except BaseException:
        staged.discard()
        raise
    commit(layout, staged=staged, record=record)
    clear_checkpoints(layout.checkpoints(spec.name, experiment=request.experiment))
    return record


def _stage(layout: Layout, *, primary: Path, folders: tuple[Path, ...], converted: Converted) -> Staged:
    if not folders:
        units, sha256 = stage_bytes(primary, data=converted.data)
    else:
        stage = FolderStage(layout, folders=folders)
        try:
            for target, source in sorted(converted.files.items()):
                # Other programs may rewrite files of their own tree in place: those are copied, never linked.
                inside = source.is_relative_to(layout.data_root)
                (stage.add_link if inside else stage.add_copy)(target, source=source)
            units, sha256 = stage.finish(primary, manifest=converted.data)
        except BaseException:
            stage.discard()
            raise
    return Staged(
        primary=primary,
        units=units,
        sha256=sha256,
        data_version=converted.data_version or sha256,
        counts=converted.counts,
        backend=converted.backend,
        warnings=converted.warnings,
    )


def _make_record(layout: Layout, *, request: StepRequest, converted: Converted, staged: Staged) -> Record:
    inside = converted.source.is_relative_to(layout.data_root)
    now = timestamp()
    return make_record(
        layout,
        request=request,
        staged=staged,
        origin="adopted",
        adopted_from=AdoptedFrom(
            path=layout.relative(converted.source) if inside else str(converted.source),
            sha256=converted.source_sha256,
            convention=converted.convention,
        ),
        place=PLACE,
        started_at=now,
        finished_at=now,
        seconds=0.0,
        cpu_seconds=0.0,
    )


def _put_aside(layout: Layout, *, primary: Path, folders: tuple[Path, ...], converted: Converted) -> None:
    """Keep a second name of every file that the publication replaces and does not carry on."""
    if not folders:
        if primary.is_file() and hash_file(primary) != hash_bytes(converted.data):
            keep_aside(layout, primary)
        return
    carried = {_identity(source) for source in converted.files.values()}
    for folder in folders:
        for parent, _, names in os.walk(folder):
            for name in names:
                path = Path(parent) / name
                ours = name.endswith((RECORD_SUFFIX, FAILURE_SUFFIX)) or is_temporary(path)
                same = path == primary and hash_bytes(converted.data) == hash_file(path)
                if not (ours or same or _identity(path) in carried):
                    keep_aside(layout, path)


def _identity(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino
