"""Attempts: cluster jobs that may still be at work on a step, as the files below the data root tell.

Holds what every place must know before it touches a step: a job outlives the process that submitted it, and with it the
claim of that process. Asks no scheduler.
"""

from __future__ import annotations

import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from morphseq_dagster.errors import TransientError
from morphseq_dagster.layout import Layout
from morphseq_dagster.places.outcome import read_outcome
from morphseq_dagster.slurm.folder import Attempt, JobRoot
from morphseq_dagster.slurm.outcome import Outcome
from morphseq_dagster.slurm.traces import read_end
from morphseq_dagster.slurm.usage import JobFacts, recall_facts
from morphseq_dagster.slurm.words import read_word
from morphseq_dagster.steps.contract import StepRequest
from morphseq_dagster.storage.records import Record


@dataclass(frozen=True)
class Glimpse:
    """How a step's cluster job stands, as far as files tell.

    Parameters
    ----------
    state
        `queued`; `running` on a node; `ended` without a result and without a verdict.
    job
        Its number; empty as long as nobody knows it.
    words
        State, reason or node, and how long ago that was said.
    """

    state: Literal["queued", "running", "ended"]
    job: str
    words: str


def glimpse_jobs(layout: Layout, *, experiments: Collection[str] | None = None) -> dict[tuple[str, str], Glimpse]:
    """Look at the newest attempt of every request, by step and experiment; no verdict and no result yet."""
    root = JobRoot(layout.jobs)
    newest: dict[tuple[str, str], Attempt] = {}
    for step in _folders(layout.jobs):
        for experiment in _folders(step):
            if step.name.startswith("_") or (experiments is not None and experiment.name not in experiments):
                continue
            group = (step.name, experiment.name)
            for key in _folders(experiment):
                last = root.attempts(group, key=key.name)[-1:]
                for attempt in last:
                    if attempt.path("closed.json").exists():
                        continue
                    if group not in newest or attempt.age_s < newest[group].age_s:
                        newest[group] = attempt
    found = {group: _glimpse(attempt) for group, attempt in sorted(newest.items())}
    return {group: glimpse for group, glimpse in found.items() if glimpse is not None}


def _glimpse(attempt: Attempt) -> Glimpse | None:
    job, start, word = attempt.job or "", attempt.record("start"), read_word(attempt)
    end = read_end(attempt, job=job)
    if end is not None:
        words = f"ended with code {end.code}, and nobody took note: run again, or `morphseq jobs --reconcile`"
        return None if end.code == 0 else Glimpse("ended", job, words)
    begun = float(start.get("t", 0.0)) if start is not None else None
    if begun is not None and not (word is not None and word.state == "PENDING" and word.said_at > begun):
        return Glimpse("running", job, f"on {(start or {}).get('node', '?')} for {tell_age(time.time() - begun)}")
    if word is None:
        return Glimpse("queued", job, f"submitted {tell_age(attempt.age_s)} ago" if job else "being submitted")
    said = f"as the cluster said {tell_age(time.time() - word.said_at)} ago"
    if attempt.pack is not None and word.state != "PENDING":
        return Glimpse("queued", job, f"its allocation works on others before it, {said}")
    if word.state == "PENDING":
        return Glimpse("queued", job, f"{word.state}{f' ({word.reason})' if word.reason else ''}, {said}")
    return Glimpse("running", job, f"{word.state}{f' on {word.node}' if word.node else ''}, {said}")


def tell_age(seconds: float) -> str:
    """Say a time span in its largest fitting unit."""
    if seconds < 120:
        return f"{max(0.0, seconds):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.0f} h"


def _folders(parent: Path) -> list[Path]:
    try:
        return sorted(path for path in parent.iterdir() if path.is_dir())
    except FileNotFoundError:
        return []


def find_attempts(layout: Layout, *, step: str, experiment: str) -> list[Attempt]:
    """Find attempts without a verdict whose job may be at work; one that ended in peace is closed on the way."""
    found = []
    for _, _, attempt in JobRoot(layout.jobs).open_attempts((step, experiment)):
        end = read_end(attempt, job=attempt.job or "")
        if end is None or end.code != 0:
            found.append(attempt)
            continue
        kind = Outcome.DONE if attempt.path("outcome.json").exists() else Outcome.FAILED
        attempt.close(kind=kind.value, state="", reason="found ended", job=attempt.job or "")
    return found


def refuse_beside_jobs(layout: Layout, *, request: StepRequest, place: str) -> None:
    """Refuse to run a step here while a cluster job may be at work on it.

    Raises
    ------
    TransientError
        Naming the job's folder.
    """
    attempts = find_attempts(layout, step=request.step, experiment=request.experiment)
    if attempts:
        raise TransientError(
            expected=f"no cluster job at work on {request.step}",
            found=f"job {attempts[0].job or 'of unknown number'}, which nobody has seen end",
            where=str(attempts[0].folder),
            remedy=f"run the step at slurm, which takes the job over; `morphseq jobs` shows it; {place} keeps out",
        )


def recall_job(layout: Layout, *, record: Record, run_id: str) -> JobFacts | None:
    """Recall the job of a run that published a record; None when none of this run's jobs did.

    A run that was resumed finds the result of the job that it had left at work: its own doing, no memory of another's.
    """
    group = (record.step, record.experiment)
    for folder in sorted(layout.jobs.joinpath(*group).glob("*/a*")):
        attempt = JobRoot(layout.jobs).attempt(group, key=folder.parent.name, number=int(folder.name[1:]))
        intent = attempt.record("intent") or {}
        if intent.get("run_id") == run_id and read_outcome(attempt.path("outcome.json")).record == record:
            return recall_facts(attempt)
    return None
