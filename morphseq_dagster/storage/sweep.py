"""Sweep: finish interrupted publications and remove temporaries whose writer is dead.

A temporary of this host is judged by its process; one of another host by its age and by the claims that are held, never
by a process number.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from morphseq_dagster.layout import Layout
from morphseq_dagster.storage.claims import break_dead_claim, hold_claim, process_start, read_claim
from morphseq_dagster.storage.commit import read_journal, roll_forward
from morphseq_dagster.storage.durable import host_name, parse_temporary, remove_folder

FOREIGN_AGE_S = 24 * 3600.0
"""Age in seconds from which another host's temporary counts as left behind (no writer stages for a day unseen)."""


@dataclass(frozen=True)
class SweepReport:
    """What a sweep did."""

    rolled_forward: tuple[str, ...]
    removed: tuple[str, ...]
    broken_claims: tuple[str, ...]
    kept: tuple[str, ...]


def sweep(layout: Layout, *, run_id: str = "sweep") -> SweepReport:
    """Break dead claims, roll publications forward and remove orphans; live work is left alone."""
    broken, rolled, removed, kept = [], [], [], []
    claims = layout.private / "claims"
    for path in sorted(claims.glob("*.json")) if claims.is_dir() else []:
        if break_dead_claim(path):
            broken.append(layout.relative(path))
    pending = layout.private / "pending"
    for path in sorted(pending.glob("*.json")) if pending.is_dir() else []:
        experiment, _, step = path.stem.rpartition(".")
        claim = layout.claim(step, experiment=experiment)
        if read_claim(claim) is not None:
            kept.append(layout.relative(path))
            continue
        with hold_claim(claim, run_id=run_id):
            roll_forward(layout, step=step, experiment=experiment)
        rolled.append(layout.relative(path))
    promised = _promised(layout)
    for path in find_temporaries(layout):
        if layout.relative(path) not in promised and _is_orphan(layout, path):
            _remove(path)
            removed.append(layout.relative(path))
        else:
            kept.append(layout.relative(path))
    return SweepReport(tuple(rolled), tuple(removed), tuple(broken), tuple(kept))


def find_temporaries(layout: Layout) -> Iterator[Path]:
    """Yield every temporary that a publication, claim or checkpoint may have left below the data root."""
    folders = list(layout.publication_folders())
    work = layout.private / "work"
    if work.is_dir():
        folders += [Path(parent) for parent, _, _ in os.walk(work)]
    for folder in folders:
        for path in sorted(folder.iterdir()) if folder.is_dir() else []:
            if parse_temporary(path.name) is not None:
                yield path


def _promised(layout: Layout) -> set[str]:
    """Temporaries that a pending publication will still rename: they are no orphans, whoever wrote them."""
    folder = layout.private / "pending"
    journals = (read_journal(path) for path in folder.glob("*.json")) if folder.is_dir() else ()
    return {move.temporary for journal in journals if journal is not None for move in journal.moves}


def _is_orphan(layout: Layout, path: Path) -> bool:
    name = parse_temporary(path.name)
    if name is None:
        return False
    if name.host == host_name():
        return process_start(name.pid) == ""
    try:
        age = time.time() - path.stat().st_mtime
    except FileNotFoundError:
        return False
    return age > FOREIGN_AGE_S and not _host_holds_a_claim(layout, name.host)


def _host_holds_a_claim(layout: Layout, host: str) -> bool:
    folder = layout.private / "claims"
    claims = (read_claim(path) for path in folder.glob("*.json")) if folder.is_dir() else ()
    return any(claim is not None and claim.host == host for claim in claims)


def _remove(path: Path) -> None:
    if path.is_dir():
        remove_folder(path)
    else:
        path.unlink(missing_ok=True)
