"""Job summaries: the state of each step's cluster job, from files alone, for people who look at many experiments.

No scheduler is asked and nothing is decided here; `open_jobs.py` decides from files whether a job may be at work.
"""

from __future__ import annotations

import time
from collections.abc import Collection
from pathlib import Path

from morphseq_dagster.cluster.attempt_folder import Attempt, JobRoot
from morphseq_dagster.cluster.job_files import read_end, read_state
from morphseq_dagster.engine.layout import Layout
from morphseq_dagster.engine.planner.snapshot import RemoteWork


def summarise_jobs(layout: Layout, *, experiments: Collection[str] | None = None) -> dict[tuple[str, str], RemoteWork]:
    """Summarise the newest attempt of every request that has neither verdict nor result, by step and experiment."""
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
    job, start, last = attempt.job or "", attempt.record("start"), read_state(attempt)
    end = read_end(attempt, job=job)
    if end is not None:
        words = f"ended with code {end.code}, and nobody took note: run again, or `morphseq jobs --reconcile`"
        return None if end.code == 0 else RemoteWork("ended", job, words)
    begun = float(start.get("t", 0.0)) if start is not None else None
    if begun is not None and not (last is not None and last.state == "PENDING" and last.said_at > begun):
        return RemoteWork("running", job, f"on {(start or {}).get('node', '?')} for {format_age(time.time() - begun)}")
    if last is None:
        return RemoteWork("queued", job, f"submitted {format_age(attempt.age_s)} ago" if job else "being submitted")
    age = f"as the cluster said {format_age(time.time() - last.said_at)} ago"
    if attempt.pilot is not None and last.state != "PENDING":
        return RemoteWork("queued", job, f"its allocation works on others before it, {age}")
    if last.state == "PENDING":
        return RemoteWork("queued", job, f"{last.state}{f' ({last.reason})' if last.reason else ''}, {age}")
    return RemoteWork("running", job, f"{last.state}{f' on {last.node}' if last.node else ''}, {age}")


def format_age(seconds: float) -> str:
    """Write a time span in its largest fitting unit."""
    if seconds < 120:
        return f"{max(0.0, seconds):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.0f} h"


def _folders(parent: Path) -> list[Path]:
    try:
        return sorted(path for path in parent.iterdir() if path.is_dir())
    except FileNotFoundError:
        return []
