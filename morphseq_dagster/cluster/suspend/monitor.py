"""Monitor: which suspended runs may go on; the cluster is asked about all of them in one question.

Files come first: about a job whose end record has code 0 the cluster is not asked. The monitor does not judge a job;
that is for the run, when it has a process again.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from morphseq_dagster.cluster.attempt_folder import Attempt
from morphseq_dagster.cluster.client import Client
from morphseq_dagster.cluster.commands import Reply, Row
from morphseq_dagster.cluster.connection import Contact, connect
from morphseq_dagster.cluster.job_files import read_end
from morphseq_dagster.cluster.outcome import is_active
from morphseq_dagster.cluster.pilot.task import row_of_task
from morphseq_dagster.cluster.suspend.state import AwaitedJob, Site, WorkerState, WorkerStates
from morphseq_dagster.errors import MorphseqError

FRESH_S: Final = 4.0
"""Seconds for which an answer holds: longer than one tick of the daemon over all runs, shorter than the next pause."""


class AwaitedState(StrEnum):
    """State of the job of a suspended run."""

    AT_WORK = "at work"
    ENDED = "ended, or known to nobody"
    MUTE = "not known: no answer from the cluster"


@dataclass
class _Answer:
    """What is known of all suspended runs, by run: the number of the job, its state, and why."""

    asked_at: float = float("-inf")
    found: dict[str, tuple[str, AwaitedState, str]] = field(default_factory=dict)


class SuspendedRunMonitor:
    """Watches the suspended runs of a Dagster home.

    Parameters
    ----------
    states
        Their states.
    """

    def __init__(self, states: WorkerStates) -> None:
        self._states = states
        self._asking = threading.Lock()
        self._answer = _Answer()
        self._contacts: dict[str, Contact] = {}

    def standing(self, state: WorkerState) -> tuple[AwaitedState, str]:
        """State of the job of a suspended run, and the reason."""
        with self._asking:
            job = state.awaited.job if state.awaited is not None else ""
            known = self._answer.found.get(state.run_id, ("", AwaitedState.MUTE, ""))
            if time.monotonic() - self._answer.asked_at > FRESH_S or known[0] != job:
                others = [one for one in self._states.suspended() if one.run_id != state.run_id]
                self._answer = self._ask([*others, state])
            return self._answer.found[state.run_id][1:]

    def _ask(self, states: Sequence[WorkerState]) -> _Answer:
        answer = _Answer()
        for site, here in _by_site(states):
            try:
                found = self._ask_site(site, here)
            except (MorphseqError, OSError) as error:  # of settings or disks: other clusters have their own
                found = {run_id: (AwaitedState.MUTE, str(error)) for run_id in here}
            answer.found |= {run_id: (here[run_id].job, *one) for run_id, one in found.items()}
        answer.asked_at = time.monotonic()  # afterwards, since it takes time until a dead controller counts as silent
        return answer

    def _ask_site(self, site: Site, here: Mapping[str, AwaitedJob]) -> dict[str, tuple[AwaitedState, str]]:
        client = connect(site.slurm, data_root=site.data_root)[0]
        attempts = {run_id: attempt_of(client, awaited=awaited) for run_id, awaited in here.items()}
        found = {run_id: (AwaitedState.ENDED, "ended") for run_id, one in attempts.items() if _has_ended(one)}
        jobs = [awaited.job for run_id, awaited in here.items() if run_id not in found]
        reply, trouble = Reply(), ""
        try:
            reply = client.scheduler.queue(jobs=jobs) if jobs else reply
        except MorphseqError as error:
            trouble = error.found
        self._contacts.setdefault(site.model_dump_json(), Contact()).update(trouble)
        for run_id, attempt in attempts.items():
            job, name = here[run_id].job, attempt.name
            row = reply.of_job(job, name=name)
            row = row if name == attempt.token else row_of_task(attempt, job=job, row=row)
            client.keep_state(attempt, row)
            if run_id in found:
                continue
            if trouble:
                found[run_id] = (AwaitedState.MUTE, trouble)
            elif isinstance(row, Row) and is_active(row):
                found[run_id] = (AwaitedState.AT_WORK, f"{row.state} {row.reason or row.node}".strip())
            else:
                words = row.state if isinstance(row, Row) else "forgotten by the controller"
                found[run_id] = (AwaitedState.ENDED, words)
        return found


def attempt_of(client: Client, *, awaited: AwaitedJob) -> Attempt:
    """Attempt that a suspended run waits for."""
    return client.root.attempt((awaited.step, awaited.experiment), key=awaited.key, number=awaited.number)


def _by_site(states: Iterable[WorkerState]) -> list[tuple[Site, dict[str, AwaitedJob]]]:
    """Awaited jobs by run, for each cluster and data root."""
    groups: dict[str, tuple[Site, dict[str, AwaitedJob]]] = {}
    for state in states:
        if state.site is not None and state.awaited is not None:
            groups.setdefault(state.site.model_dump_json(), (state.site, {}))[1][state.run_id] = state.awaited
    return list(groups.values())


def _has_ended(attempt: Attempt) -> bool:
    """Whether files alone prove the end: a verdict, or an end with code 0. A job that failed may be started again."""
    end = read_end(attempt)
    return attempt.is_closed or (end is not None and end.code == 0)
