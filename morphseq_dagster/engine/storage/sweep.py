"""Sweep: finish interrupted publications and remove temporaries whose writer is dead.

A temporary of this host is judged by its process; one of another host by its age and by the locks that are held, never
by a process number.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from morphseq_dagster.engine.layout import Layout
from morphseq_dagster.engine.storage.atomic_io import (
    TemporaryName,
    host_name,
    parse_message,
    parse_temporary,
    remove_folder,
)
from morphseq_dagster.engine.storage.commit import read_journal, roll_forward
from morphseq_dagster.engine.storage.step_locks import break_dead_lock, hold_lock, process_is_gone, read_lock
from morphseq_dagster.errors import MorphseqError, PermanentError, TransientError

FOREIGN_AGE_S = 24 * 3600.0
"""Age in seconds from which another host's temporary counts as left behind (no writer stages for a day unseen)."""


@dataclass(frozen=True)
class SweepReport:
    """What a sweep did."""

    rolled_forward: tuple[str, ...]
    removed: tuple[str, ...]
    broken_locks: tuple[str, ...]
    kept: tuple[str, ...]


def sweep(
    layout: Layout, *, run_id: str = "sweep", is_at_work: Callable[[str, str], bool] = lambda _experiment, _step: False
) -> SweepReport:
    """Break dead locks, roll publications forward and remove orphans; live work is left alone, and nothing waits.

    What cannot be understood (a damaged lock or journal) is kept and named in the report.

    Parameters
    ----------
    layout, run_id
        Where, and on whose behalf.
    is_at_work
        Whether something that outlives its lock may be publishing a step of an experiment: a job on a cluster.
    """
    broken: list[str] = []
    rolled: list[str] = []
    removed: list[str] = []
    kept: list[str] = []
    for path in _listed(layout.locks):
        try:
            if break_dead_lock(path):
                broken.append(layout.relative(path))
        except TransientError:
            kept.append(layout.relative(path))
    for path in _listed(layout.journals):
        finished = _finish(layout, journal=path, run_id=run_id, is_at_work=is_at_work)
        (rolled if finished else kept).append(layout.relative(path))
    for path in find_temporaries(layout):
        if _may_go(layout, path):
            _remove(path)
            removed.append(layout.relative(path))
        else:
            kept.append(layout.relative(path))
    return SweepReport(tuple(rolled), tuple(removed), tuple(broken), tuple(kept))


def find_orphans(layout: Layout) -> Iterator[Path]:
    """Find the temporaries whose writer is dead and that no pending publication will still rename."""
    return (path for path in find_temporaries(layout) if _may_go(layout, path))


def find_temporaries(layout: Layout) -> Iterator[Path]:
    """Yield whatever a publication, lock, checkpoint or message between processes may have left behind."""
    private = (Path(parent) for parent, _, _ in os.walk(layout.private))
    for folder in list(dict.fromkeys([*layout.publication_folders(), *private])):
        for path in sorted(folder.iterdir()) if folder.is_dir() else []:
            if _writer(path) is not None:
                yield path


def _may_go(layout: Layout, path: Path) -> bool:
    """Whether nobody will finish a temporary: first the proof of death, since a dead writer promises nothing new."""
    return _is_orphan(layout, path) and layout.relative(path) not in _promised(layout)


def _listed(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.json")) if folder.is_dir() else []


def _writer(path: Path) -> TemporaryName | None:
    return parse_temporary(path.name) or parse_message(path.name)


def _finish(layout: Layout, *, journal: Path, run_id: str, is_at_work: Callable[[str, str], bool]) -> bool:
    """Roll one publication forward unless its step is at work."""
    experiment, _, step = journal.stem.rpartition(".")
    try:
        with hold_lock(layout.lock(step, experiment=experiment), run_id=run_id, patience_s=0.0):
            if is_at_work(experiment, step):
                return False
            roll_forward(layout, step=step, experiment=experiment)
    except MorphseqError:
        return False
    return True


def _promised(layout: Layout) -> set[str]:
    """Temporaries that a pending publication will still rename: they are no orphans, whoever wrote them."""
    promised: set[str] = set()
    for path in _listed(layout.journals):
        with contextlib.suppress(PermanentError):  # a damaged journal can promise nothing
            journal = read_journal(path)
            promised |= {move.temporary for move in journal.moves} if journal is not None else set()
    return promised


def _is_orphan(layout: Layout, path: Path) -> bool:
    name = _writer(path)
    if name is None:
        return False
    if name.host == host_name():
        return process_is_gone(name.pid)
    try:
        age = time.time() - path.stat().st_mtime
    except FileNotFoundError:
        return False
    return age > FOREIGN_AGE_S and not _host_holds_a_lock(layout, name.host)


def _host_holds_a_lock(layout: Layout, host: str) -> bool:
    for path in _listed(layout.locks):
        try:
            lock = read_lock(path)
        except TransientError:
            return True  # whose it is is not known
        if lock is not None and lock.host == host:
            return True
    return False


def _remove(path: Path) -> None:
    if path.is_dir():
        remove_folder(path)
    else:
        path.unlink(missing_ok=True)
