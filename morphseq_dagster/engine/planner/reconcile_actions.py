"""Reconcile actions: what a person decides about a finding - to keep an edit, discard it, or refresh a record.

Each is done under the lock of the step; the findings come from `reconcile.py`. A kept edit is published anew through
the ordinary commit, so that exactly the bytes that were checked are the ones recorded; a discarded one is marked, and
the recompute replaces the file.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from morphseq_dagster.engine.layout import Layout
from morphseq_dagster.engine.planner.inventory import Located, locate
from morphseq_dagster.engine.planner.reconcile import Finding, Kind, examine
from morphseq_dagster.engine.storage.atomic_io import write_durably
from morphseq_dagster.engine.storage.checkpoints import clear_checkpoints
from morphseq_dagster.engine.storage.commit import commit, roll_forward
from morphseq_dagster.engine.storage.file_lists import FileChange, compare_pictures, digest_listing
from morphseq_dagster.engine.storage.hashing import hash_file
from morphseq_dagster.engine.storage.records import (
    ExternalEdit,
    Record,
    WellState,
    clear_failure,
    encode,
    read_record,
    timestamp,
)
from morphseq_dagster.engine.storage.staging import FolderStage, Staged, stage_bytes
from morphseq_dagster.engine.storage.step_locks import hold_lock
from morphseq_dagster.engine.storage.untracked_files import find_untracked, put_aside
from morphseq_dagster.engine.tables.check import check_bytes
from morphseq_dagster.engine.tables.document import DocumentPart, encode_document
from morphseq_dagster.engine.tables.image_set import FileEntry, ImageSetManifest
from morphseq_dagster.engine.workspace import Workspace
from morphseq_dagster.errors import ContractError, PermanentError

_PATIENCE_S: Final = 30.0
_LISTED: Final = 10


def keep(workspace: Workspace, path: Path, *, run_id: str = "reconcile") -> Record:
    """Declare an edited artifact valid: check its contract, publish it anew, record it as `external_edit`.

    Parameters
    ----------
    workspace
        Data root and pipeline.
    path
        Primary file, or a picture of an image set.
    run_id
        On whose behalf.

    Raises
    ------
    ContractError
        When what lies there breaks the artifact's contract; nothing is changed then.
    PermanentError
        When there is nothing to keep.
    """
    layout = workspace.layout
    with _locked(workspace, path, run_id=run_id) as (entry, finding):
        record = read_record(layout, primary=entry.primary)
        if finding is None or record is None or "keep" not in finding.actions:
            raise _refuse("keep", finding=finding, path=path)
        staged = _restage(layout, entry=entry, record=record)
        try:
            kept = _kept(layout, record=record, staged=staged)
        except BaseException:
            staged.discard()
            raise
        commit(layout, staged=staged, record=kept)
        _forget(layout, entry)
        return kept


def discard(workspace: Workspace, path: Path, *, run_id: str = "reconcile") -> Finding:
    """Mark an artifact so that its step makes it again; a record that belongs to nothing is removed.

    Files without a record, or whose record says nothing of them, are put aside below `adopted_originals/`.

    Raises
    ------
    PermanentError
        When there is nothing to discard.
    """
    layout = workspace.layout
    with _locked(workspace, path, run_id=run_id) as (entry, examined):
        # A kept edit that was merely touched is still an edit that may be given up.
        finding = (_find_kept(layout, entry) or examined) if examined is None or examined.is_harmless else examined
        finding = finding or _find_pictures(layout, entry)
        if finding is None or "discard" not in finding.actions:
            raise _refuse("discard", finding=finding, path=path)
        record_path = layout.record(entry.primary)
        if finding.kind in (Kind.NO_RECORD, Kind.ORPHAN_RECORD, Kind.UNREADABLE_RECORD):
            record_path.unlink(missing_ok=True)
            # Beside a record of something else lies a file that nobody has spoken of yet.
            for untracked in list(_find_untracked(layout, entry)) if finding.kind is not Kind.ORPHAN_RECORD else []:
                put_aside(layout, untracked)
        else:
            record = read_record(layout, primary=entry.primary)
            if record is None:
                raise _refuse("discard", finding=finding, path=path)
            # No key, no wells: nothing of what lies there may be taken over by the recompute.
            values: dict[str, Any] = {"condition": "discarded", "request_key": "", "wells": {}, "origin": "computed"}
            write_durably(record_path, encode(record.model_copy(update=values)))
        _forget(layout, entry)
        return finding


def refresh(workspace: Workspace, path: Path, *, run_id: str = "reconcile") -> Record:
    """Take size, time and inode of unchanged content into the record, so that it need not be hashed each time.

    Raises
    ------
    PermanentError
        When the content is not as recorded.
    """
    layout = workspace.layout
    with _locked(workspace, path, run_id=run_id) as (entry, finding):
        record = read_record(layout, primary=entry.primary)
        if record is None or finding is None or finding.kind is not Kind.TOUCHED:
            raise _refuse("refresh", finding=finding, path=path)
        status = entry.primary.stat()
        folders = tuple(layout.absolute(folder) for folder in record.output.folders)
        values = {"size": status.st_size, "mtime_ns": status.st_mtime_ns, "inode": status.st_ino}
        listing = digest_listing(folders) if folders else ""
        output = record.output.model_copy(update={**values, "listing": listing})
        fresh = record.model_copy(update={"output": output})
        write_durably(layout.record(entry.primary), encode(fresh))
        return fresh


@contextmanager
def _locked(workspace: Workspace, path: Path, *, run_id: str) -> Iterator[tuple[Located, Finding | None]]:
    """Lock the step of an artifact, finish what a crash left, and examine the artifact as it is then."""
    layout = workspace.layout
    entry = locate(workspace, path)
    if entry is None:
        raise PermanentError(
            expected="a file that the pipeline makes",
            found=str(path),
            where="morphseq reconcile",
            remedy="name a file of the report of `morphseq reconcile`",
        )
    lock = layout.lock(entry.step, experiment=entry.experiment)
    with hold_lock(lock, run_id=run_id, patience_s=_PATIENCE_S):
        roll_forward(layout, step=entry.step, experiment=entry.experiment)
        yield entry, examine(layout, entry, hash_all=True)


def _find_kept(layout: Layout, entry: Located) -> Finding | None:
    """An edit that was kept is as recorded, and may be given up all the same."""
    record = read_record(layout, primary=entry.primary)
    if record is None or record.origin != "external_edit" or record.condition != "published":
        return None
    path = layout.relative(entry.primary)
    return Finding(Kind.EDITED, entry.experiment, entry.step, path, "an edit that was kept", actions=("discard",))


def _find_untracked(layout: Layout, entry: Located) -> Iterator[Path]:
    return find_untracked(layout, step=entry.step, experiment=entry.experiment, primary=entry.primary)


def _find_pictures(layout: Layout, entry: Located) -> Finding | None:
    """Pictures of an older program, without a manifest, are no artifact that could be examined; but they lie there."""
    untracked = next(_find_untracked(layout, entry), None)
    if untracked is None:
        return None
    detail = "pictures are there without a record"
    return Finding(
        Kind.NO_RECORD, entry.experiment, entry.step, layout.relative(untracked), detail, actions=("discard",)
    )


def _restage(layout: Layout, *, entry: Located, record: Record) -> Staged:
    """Stage what lies there as the step would, after checking it."""
    where = record.output.path
    data = entry.primary.read_bytes()
    artifact = layout.artifact(entry.step)
    document = check_bytes(data, artifact=artifact, experiment=entry.experiment, where=where)
    if isinstance(document, DocumentPart):
        document.check_content(where=where)
    if not record.output.folders:
        units, sha256 = stage_bytes(entry.primary, data=data)
        version = (document.stated_version() if isinstance(document, DocumentPart) else None) or sha256
        return Staged(primary=entry.primary, units=units, sha256=sha256, data_version=version, status=record.status)
    if not isinstance(document, ImageSetManifest):
        raise TypeError(f"the contract of {entry.step} is no manifest of pictures")
    folders = tuple(layout.absolute(folder) for folder in record.output.folders)
    manifest = _checked_manifest(layout, document, folders=folders, primary=entry.primary)
    stage = FolderStage(layout, folders=folders)
    try:
        for name in sorted(manifest.files):
            stage.add_link(layout.absolute(name), source=layout.absolute(name))
        units, sha256 = stage.finish(entry.primary, manifest=encode_document(manifest))
    except BaseException:
        stage.discard()
        raise
    return Staged(primary=entry.primary, units=units, sha256=sha256, data_version=sha256, status=record.status)


def _checked_manifest(
    layout: Layout, manifest: ImageSetManifest, *, folders: tuple[Path, ...], primary: Path
) -> ImageSetManifest:
    """Manifest with the entries of the edited pictures as they are now, each decoded first."""
    changes = compare_pictures(layout, files=manifest.files, folders=folders, primary=primary)
    refused = [f"{c.path} was {c.change.value}" for c in changes if c.change is not FileChange.EDITED]
    if refused:
        raise ContractError(
            expected="a picture for every entry of the manifest and an entry for every picture",
            found=f"{len(refused)} problems: " + "; ".join(refused[:_LISTED]),
            where=layout.relative(primary),
            remedy="restore the pictures, or discard the edit so that they are made again",
        )
    files = dict(manifest.files)
    for change in changes:
        path = layout.absolute(change.path)
        manifest.check_picture(change.path, data=path.read_bytes())
        files[change.path] = FileEntry(sha256=hash_file(path), size=path.stat().st_size)
    return manifest.model_copy(update={"files": files})


def _kept(layout: Layout, *, record: Record, staged: Staged) -> Record:
    before = record.external_edit.before_sha256 if record.external_edit is not None else record.output.sha256
    # Keys of wells would let a later recompute take edited pictures over as if it had made them.
    wells: dict[str, WellState] = {
        well: state.model_copy(update={"transient": False})
        for well, state in record.wells.items()
        if state.status == "failed"
    }
    return record.model_copy(
        update={
            "origin": "external_edit",
            "condition": "published",
            "external_edit": ExternalEdit(kept_at=timestamp(), before_sha256=before),
            "data_version": staged.data_version,
            "output": staged.describe(layout),
            "wells": wells,
        }
    )


def _forget(layout: Layout, entry: Located) -> None:
    """Remove what attempts before the decision left: failure, finished wells, a picture of the old content."""
    clear_failure(layout, primary=entry.primary)
    clear_checkpoints(layout.checkpoints(entry.step, experiment=entry.experiment))
    layout.preview(entry.step, experiment=entry.experiment).unlink(missing_ok=True)


def _refuse(action: str, *, finding: Finding | None, path: Path) -> PermanentError:
    allowed = ", ".join(finding.actions) if finding is not None else ""
    return PermanentError(
        expected=f"an artifact for which there is something to {action}",
        found=f"{finding.kind.value}: {finding.detail}" if finding is not None else "an artifact that is as recorded",
        where=str(path),
        remedy=f"possible here: {allowed}" if allowed else "nothing needs to be done",
    )
