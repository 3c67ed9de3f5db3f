"""Reconcile: compare what lies below the data root with the records, and name every difference.

Size, time and inode are compared first, and contents where these differ; what is at work right now is left out and
named. Nothing is written here: what a person may do about a finding is in `reconcile_actions.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from morphseq_dagster.engine.layout import COHORT, Layout
from morphseq_dagster.engine.planner.inventory import Located, list_artifacts, locate
from morphseq_dagster.engine.planner.retirement import read_retired
from morphseq_dagster.engine.storage.file_lists import (
    FileChange,
    PictureChange,
    compare_pictures,
    is_cut_off,
)
from morphseq_dagster.engine.storage.hashing import hash_file
from morphseq_dagster.engine.storage.records import OutputVerdict, Record, look_at_output, read_record
from morphseq_dagster.engine.storage.step_locks import holder_is_dead, read_lock
from morphseq_dagster.engine.tables.image_set import read_file_entries
from morphseq_dagster.engine.workspace import Workspace
from morphseq_dagster.errors import MorphseqError

_SHORT: Final = 12
"""Characters of a hash that people are shown."""


class Kind(StrEnum):
    """Kinds of findings.

    `edited` (in place), `truncated`, `replaced` (another file under its name), `deleted`, `pictures` (of an image set),
    `touched` (times or inodes differ, the content does not), `no_record`, `orphan_record` (of something else than what
    lies there), `unreadable_record`, `unreadable` (the file system refuses, or a manifest of ours is none).
    """

    EDITED = "edited"
    TRUNCATED = "truncated"
    REPLACED = "replaced"
    DELETED = "deleted"
    PICTURES = "pictures"
    TOUCHED = "touched"
    NO_RECORD = "no_record"
    ORPHAN_RECORD = "orphan_record"
    UNREADABLE_RECORD = "unreadable_record"
    UNREADABLE = "unreadable"


@dataclass(frozen=True)
class Finding:
    """One difference between disk and records.

    Parameters
    ----------
    kind
        What happened.
    experiment, step
        Whose artifact.
    path
        Primary file relative to the data root.
    detail
        What was expected and found, for people.
    pictures
        Pictures of an image set concerned.
    actions
        What can be done: `keep`, `discard`, `refresh`, `adopt`.
    """

    kind: Kind
    experiment: str
    step: str
    path: str
    detail: str
    pictures: tuple[PictureChange, ...] = ()
    actions: tuple[str, ...] = ()

    @property
    def is_harmless(self) -> bool:
        """Whether the content is as recorded, so that nothing but time is lost by leaving it so."""
        return self.kind is Kind.TOUCHED


@dataclass(frozen=True)
class Reconciliation:
    """What was found.

    Parameters
    ----------
    findings
        Differences, by experiment and step.
    checked
        Number of artifacts compared.
    busy
        Artifacts left out because somebody works on them, with the holder.
    """

    findings: tuple[Finding, ...]
    checked: int
    busy: tuple[tuple[str, str], ...]

    @property
    def remaining(self) -> tuple[Finding, ...]:
        """Findings that need a decision."""
        return tuple(finding for finding in self.findings if not finding.is_harmless)


def reconcile(
    workspace: Workspace,
    *,
    experiments: Collection[str] | None = None,
    hash_all: bool = False,
    on_progress: Callable[[int, int], None] | None = None,
) -> Reconciliation:
    """Compare every artifact with its record.

    Parameters
    ----------
    workspace
        Data root and pipeline.
    experiments
        Names to look at; all when None.
    hash_all
        Hash every file, instead of those whose size, time or inode differ.
    on_progress
        Called with the number done and the number in all.
    """
    layout = workspace.layout
    known = {artifact.name for artifact in layout.artifacts}
    located = list_artifacts(workspace, experiments=experiments)
    findings: list[Finding] = []
    busy: list[tuple[str, str]] = []
    for number, entry in enumerate(located):
        holder = _find_holder(layout, entry)
        if holder:
            busy.append((layout.relative(entry.primary), holder))
        else:
            finding = examine(layout, entry, hash_all=hash_all) if entry.step in known else None
            findings += [finding] if finding is not None else []
        if on_progress is not None:
            on_progress(number + 1, len(located))
    findings += find_vanished(workspace, located=located, experiments=experiments)
    return Reconciliation(tuple(findings), len(located) - len(busy), tuple(busy))


def find_vanished(
    workspace: Workspace, *, located: Collection[Located], experiments: Collection[str] | None = None
) -> Iterator[Finding]:
    """Yield the artifacts that are gone with their records, as a deleted folder takes both along.

    What was made from them names them in its own record. Where nothing of that is left either, nothing is proven, and
    the artifact is merely missing.

    Parameters
    ----------
    workspace
        Data root and pipeline.
    located
        What is there.
    experiments
        Names to look for; all when None.
    """
    layout = workspace.layout
    names = {artifact.name for artifact in layout.artifacts}
    there = {layout.relative(entry.primary) for entry in located}
    proofs: dict[str, list[tuple[str, str]]] = {}
    for witness in [*located, *_find_cohort(workspace, located=located)]:
        try:
            record = read_record(layout, primary=witness.primary)
        except (MorphseqError, OSError):
            continue  # a finding of its own
        for entry in record.inputs if record is not None else ():
            if entry.sha256 and entry.path not in there and (entry.name in names or witness.experiment == COHORT):
                proofs.setdefault(entry.path, []).append((witness.step, entry.sha256))
    retired = read_retired(workspace) if proofs else frozenset()
    for path, made in sorted(proofs.items()):
        lost = locate(workspace, layout.absolute(path))
        if lost is None or lost.has_record or lost.has_file or lost.experiment in retired:
            continue
        if (experiments is None or lost.experiment in experiments) and not _find_holder(layout, lost):
            steps = ", ".join(dict.fromkeys(step for step, _ in made))
            found = f"file and record are gone, but {steps} was made from version {made[0][1][:_SHORT]} of it"
            yield Finding(Kind.DELETED, lost.experiment, lost.step, path, f"{found}; a run makes it again")


def _find_cohort(workspace: Workspace, *, located: Collection[Located]) -> Iterator[Located]:
    """The cohort's table is a witness of every experiment, also where only some are looked at."""
    if not any(entry.experiment == COHORT for entry in located):
        yield from list_artifacts(workspace, experiments=(COHORT,))


def examine(layout: Layout, entry: Located, *, hash_all: bool = False) -> Finding | None:
    """Compare one artifact with its record; None when it is as recorded or decided upon already."""
    path = layout.relative(entry.primary)

    def find(kind: Kind, detail: str, *actions: str, pictures: tuple[PictureChange, ...] = ()) -> Finding:
        return Finding(kind, entry.experiment, entry.step, path, detail, pictures, actions)

    try:
        record = read_record(layout, primary=entry.primary)
        if record is None:
            found = "the file is there, its record is not"
            return find(Kind.NO_RECORD, found, "adopt", "discard") if entry.has_file else None
        if (record.step, record.experiment, record.output.path) != (entry.step, entry.experiment, path):
            found = f"the record is that of {record.step} of {record.experiment} at {record.output.path}"
            return find(Kind.ORPHAN_RECORD, found, "discard")
        if record.condition != "published":
            return None
        return _compare(layout, entry=entry, record=record, hash_all=hash_all, find=find)
    except (MorphseqError, OSError) as error:
        damaged = isinstance(error, MorphseqError) and error.where == str(layout.record(entry.primary))
        if damaged:
            return find(Kind.UNREADABLE_RECORD, str(error), "discard", "adopt")
        return find(Kind.UNREADABLE, str(error), "discard")


def _compare(
    layout: Layout, *, entry: Located, record: Record, hash_all: bool, find: Callable[..., Finding]
) -> Finding | None:
    output = record.output
    folders = tuple(layout.absolute(folder) for folder in output.folders)
    gone = [folder for folder in folders if not folder.is_dir()]
    try:
        status = entry.primary.stat()
    except FileNotFoundError:
        return find(Kind.DELETED, "there is a record, but the file is gone", "discard")
    same = look_at_output(layout, output)[0] is OutputVerdict.AS_RECORDED
    if same and not hash_all:
        return None
    if hash_file(entry.primary) != output.sha256:
        return _judge_primary(entry, record=record, size=status.st_size, inode=status.st_ino, find=find)
    pictures: tuple[PictureChange, ...] = ()
    if folders:
        files = read_file_entries(entry.primary)
        pictures = compare_pictures(layout, files=files, folders=folders, primary=entry.primary)
    if pictures or gone:
        keepable = not gone and all(picture.change is FileChange.EDITED for picture in pictures)
        actions = ("keep", "discard") if keepable else ("discard",)
        return find(Kind.PICTURES, _count(pictures), *actions, pictures=pictures)
    return None if same else find(Kind.TOUCHED, "same content, other time or inode", "refresh")


def _judge_primary(entry: Located, *, record: Record, size: int, inode: int, find: Callable[..., Finding]) -> Finding:
    """Say what happened to a primary file whose content is not the recorded one."""
    recorded = record.output
    found = f"{size} bytes where {recorded.size} were recorded" if size != recorded.size else "other content, same size"
    if size < recorded.size and is_cut_off(entry.primary):
        return find(Kind.TRUNCATED, f"{found}; it has no proper end", "discard")
    return find(Kind.EDITED if inode == recorded.inode else Kind.REPLACED, found, "keep", "discard")


def _find_holder(layout: Layout, entry: Located) -> str:
    """Say who works on an artifact's step; empty when nobody does."""
    try:
        lock = read_lock(layout.lock(entry.step, experiment=entry.experiment))
    except MorphseqError as error:
        return str(error)
    if lock is not None and not holder_is_dead(lock):
        return lock.holder()
    if layout.journal(entry.step, experiment=entry.experiment).exists():
        return "its publication was cut off; the next run finishes it"
    return ""


def find_departed(workspace: Workspace) -> dict[str, int]:
    """Experiments that have records but no source any more, with the number of their records."""
    if workspace.pipeline.sources is None:
        return {}
    folders = {source.name for source in workspace.pipeline.find_sources(workspace.layout)}
    counts: dict[str, int] = {}
    for entry in list_artifacts(workspace):
        if entry.has_record and entry.experiment != COHORT and entry.experiment not in folders:
            counts[entry.experiment] = counts.get(entry.experiment, 0) + 1
    return counts


def _count(pictures: tuple[PictureChange, ...]) -> str:
    counts = {change: sum(p.change is change for p in pictures) for change in FileChange}
    return ", ".join(f"{count} {change.value}" for change, count in counts.items() if count) or "a folder is gone"
