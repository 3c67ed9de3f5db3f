"""Monitor: which suspended runs may go on, asked for all of them at once.

Holds the answer and its age. Files first: what ended in peace has said so on the disk, no cluster is asked about it.
Asks only; the verdict on a job is its run's business.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from morphseq_dagster.cluster.attempt_folder import Attempt
from morphseq_dagster.cluster.client import Client
from morphseq_dagster.cluster.commands import Reply, Row, Sighting
from morphseq_dagster.cluster.connection import Contact, connect
from morphseq_dagster.cluster.job_files import read_end, save_sighting
from morphseq_dagster.cluster.outcome import is_active
from morphseq_dagster.cluster.pilot.task import row_of_task
from morphseq_dagster.cluster.suspend.state import AwaitedJob, RunNote, RunNotes, Site
from morphseq_dagster.errors import MorphseqError

FRESH_S: Final = 4.0
"""Seconds for which an answer holds: longer than one tick of the daemon over all runs, shorter than the next pause."""


class AwaitedState(StrEnum):
    """How the job of a suspended run stands."""

    AT_WORK = "at work"
    ENDED = "ended, or known to nobody"
    MUTE = "not known: no answer from the cluster"


@dataclass
class _Answer:
    """What is known of all suspended runs, and when it was asked."""

    asked_at: float = float("-inf")
    standings: dict[str, tuple[str, AwaitedState]] = field(default_factory=dict)
    words: dict[str, str] = field(default_factory=dict)

    def tell(self, note: RunNote, parked: AwaitedJob, standing: AwaitedState, words: str) -> None:
        """Take down how the job of a run stands."""
        self.standings[note.run_id] = (parked.job, standing)
        self.words[note.run_id] = words


class SuspendedRunMonitor:
    """Looks after the suspended runs of a Dagster home.

    Parameters
    ----------
    notes
        Their notes.
    """

    def __init__(self, notes: RunNotes) -> None:
        self._notes = notes
        self._asking = threading.Lock()
        self._answer = _Answer()
        self._contacts: dict[str, Contact] = {}

    def standing(self, note: RunNote) -> tuple[AwaitedState, str]:
        """Tell how the job of a suspended run stands, and in which words."""
        with self._asking:
            job = note.parked.job if note.parked is not None else ""
            known = self._answer.standings.get(note.run_id, ("", AwaitedState.MUTE))
            if time.monotonic() - self._answer.asked_at > FRESH_S or known[0] != job:
                self._answer = self._ask([*(n for n in self._notes.parked() if n.run_id != note.run_id), note])
            return self._answer.standings[note.run_id][1], self._answer.words[note.run_id]

    def _ask(self, notes: Sequence[RunNote]) -> _Answer:
        answer = _Answer()
        for site, here in _by_site(notes):
            try:
                self._ask_site(site, here, answer=answer)
            except (MorphseqError, OSError) as error:  # of settings or disks: other clusters have their own
                for note, parked in here:
                    answer.tell(note, parked, AwaitedState.MUTE, str(error))
        answer.asked_at = time.monotonic()  # a dead controller takes its time to be silent
        return answer

    def _ask_site(self, site: Site, here: Sequence[tuple[RunNote, AwaitedJob]], *, answer: _Answer) -> None:
        client = connect(site.slurm, data_root=site.data_root)[0]
        attempts = {note.run_id: attempt_of(client, parked=parked) for note, parked in here}
        ended = {run_id for run_id, attempt in attempts.items() if _has_ended(attempt)}
        asked = [(note, parked) for note, parked in here if note.run_id not in ended]
        rows, trouble = _ask_queue(client, jobs=[parked.job for _, parked in asked])
        self._contacts.setdefault(site.model_dump_json(), Contact()).tell(trouble)
        for note, parked in here:
            row = _row_of(attempts[note.run_id], parked.job, rows=rows)
            if row is not None:
                (client.words.keep if is_active(row) else save_sighting)(attempts[note.run_id], row=row)
            if note.run_id in ended:
                answer.tell(note, parked, AwaitedState.ENDED, "ended")
            elif trouble:
                answer.tell(note, parked, AwaitedState.MUTE, trouble)
            elif row is not None and is_active(row):
                answer.tell(note, parked, AwaitedState.AT_WORK, f"{row.state} {row.reason or row.node}".strip())
            else:
                words = row.state if row is not None else "forgotten by the controller"
                answer.tell(note, parked, AwaitedState.ENDED, words)


def attempt_of(client: Client, *, parked: AwaitedJob) -> Attempt:
    """Attempt that a suspended run waits for."""
    return client.root.attempt((parked.step, parked.experiment), key=parked.key, number=parked.number)


def _by_site(notes: Iterable[RunNote]) -> list[tuple[Site, list[tuple[RunNote, AwaitedJob]]]]:
    groups: dict[str, tuple[Site, list[tuple[RunNote, AwaitedJob]]]] = {}
    for note in notes:
        if note.site is not None and note.parked is not None:
            _, here = groups.setdefault(note.site.model_dump_json(), (note.site, []))
            here.append((note, note.parked))
    return list(groups.values())


def _has_ended(attempt: Attempt) -> bool:
    """Whether files alone prove the end: a verdict, or an end in peace. A job that failed may be started again."""
    end = read_end(attempt, job=attempt.job or "")
    return attempt.is_closed or (end is not None and end.code == 0)


def _row_of(attempt: Attempt, job: str, *, rows: dict[str, Row]) -> Row | None:
    """Row of a job, if it is this attempt's: numbers start again after a controller was reset."""
    row: Row | Sighting = Reply(rows).of_job(job, name=attempt.name)
    if attempt.name != attempt.token:  # a task of a pilot job, which shares its job
        row = row_of_task(attempt, job=job, end=read_end(attempt, job=job), row=row)
    return row if isinstance(row, Row) else None


def _ask_queue(client: Client, *, jobs: Sequence[str]) -> tuple[dict[str, Row], str]:
    if not jobs:
        return {}, ""
    try:
        return dict(client.scheduler.queue(jobs=jobs).rows), ""
    except MorphseqError as error:
        return {}, error.found
