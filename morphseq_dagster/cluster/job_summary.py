"""Glimpses: how a step's cluster job stands, from files alone, for people who look at many experiments.

Holds reading and wording. Asks no scheduler and decides nothing (`attempts` does).
"""

from __future__ import annotations

import time
from collections.abc import Collection
from pathlib import Path

from morphseq_dagster.cluster.attempt_folder import Attempt, JobRoot
from morphseq_dagster.cluster.job_files import read_end
from morphseq_dagster.cluster.state_cache import read_state
from morphseq_dagster.engine.layout import Layout
from morphseq_dagster.engine.planner.snapshot import RemoteWork


def summarise_jobs(layout: Layout, *, experiments: Collection[str] | None = None) -> dict[tuple[str, str], RemoteWork]:
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
    found = {group: _summarise(attempt) for group, attempt in sorted(newest.items())}
    return {group: summary for group, summary in found.items() if summary is not None}


def _summarise(attempt: Attempt) -> RemoteWork | None:
    job, start, word = attempt.job or "", attempt.record("start"), read_state(attempt)
    end = read_end(attempt, job=job)
    if end is not None:
        words = f"ended with code {end.code}, and nobody took note: run again, or `morphseq jobs --reconcile`"
        return None if end.code == 0 else RemoteWork("ended", job, words)
    begun = float(start.get("t", 0.0)) if start is not None else None
    if begun is not None and not (word is not None and word.state == "PENDING" and word.said_at > begun):
        return RemoteWork("running", job, f"on {(start or {}).get('node', '?')} for {format_age(time.time() - begun)}")
    if word is None:
        return RemoteWork("queued", job, f"submitted {format_age(attempt.age_s)} ago" if job else "being submitted")
    said = f"as the cluster said {format_age(time.time() - word.said_at)} ago"
    if attempt.pilot is not None and word.state != "PENDING":
        return RemoteWork("queued", job, f"its allocation works on others before it, {said}")
    if word.state == "PENDING":
        return RemoteWork("queued", job, f"{word.state}{f' ({word.reason})' if word.reason else ''}, {said}")
    return RemoteWork("running", job, f"{word.state}{f' on {word.node}' if word.node else ''}, {said}")


def format_age(seconds: float) -> str:
    """Say a time span in its largest fitting unit."""
    if seconds < 120:
        return f"{max(0.0, seconds):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.0f} h"


def _folders(parent: Path) -> list[Path]:
    try:
        return sorted(path for path in parent.iterdir() if path.is_dir())
    except FileNotFoundError:
        return []
