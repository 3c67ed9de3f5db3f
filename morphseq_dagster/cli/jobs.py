"""`morphseq jobs`: every cluster job at work - state, reason, age of the answer, node, experiment, step.

What becomes of jobs whose run has ended is decided in `cluster/orphans.py`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated

import typer

from morphseq_dagster.cli.messages import printable
from morphseq_dagster.cli.options import Call, refuse_call, verb
from morphseq_dagster.cluster.attempt_folder import VOID, JobRoot
from morphseq_dagster.cluster.job_summary import format_age
from morphseq_dagster.cluster.orphans import Orphan, OrphanAction, Survey
from morphseq_dagster.errors import PermanentError

_HEAD = ("STEP", "EXPERIMENT", "JOB", "ATTEMPT", "STATE", "REASON", "NODE", "AGE")
_PLANS = {
    OrphanAction.REPORTED: "stays",
    OrphanAction.KEPT: "stays at work",
    OrphanAction.WAITS: "stays for now",
    OrphanAction.DONE: "would be closed as done",
    OrphanAction.CLOSED: "would be closed",
    OrphanAction.CANCELLED: "would be cancelled",
}
_DEEDS = {**_PLANS, OrphanAction.DONE: "done", OrphanAction.CLOSED: "closed", OrphanAction.CANCELLED: "cancelled"}


@dataclass(frozen=True)
class _Done:
    """What was seen, at what time, and what came of it."""

    survey: Survey
    answered_at: float
    orphans: Sequence[Orphan]
    reported: int = 0


@verb(example="morphseq jobs")
def jobs(
    call: Call,
    *,
    reconcile: Annotated[
        bool,
        typer.Option("--reconcile", help="Close, report or cancel jobs whose run has ended, as places.slurm decides."),
    ] = False,
) -> None:
    """Show the cluster jobs at work.

    For those whose run has ended, what becomes of them. Exit code 1 when the cluster does not answer.
    """
    if reconcile and call.settings.places.slurm is None:
        refuse_call(
            PermanentError(
                expected="a cluster",
                found="no section places.slurm",
                where="morphseq.toml",
                remedy="name the cluster whose jobs these are",
            )
        )
    if next(JobRoot(call.workspace.layout.jobs).open_attempts(), None) is None:
        print("no jobs")
        raise typer.Exit(0)
    done = _look_after(call, reconcile=reconcile)
    print("\n".join(_draw(done.survey.orphans, folders=call.verbose)))
    if done.survey.trouble:
        print(f"the cluster could not be asked: {printable(done.survey.trouble)}")
    else:
        print(f"the cluster answered {time.time() - done.answered_at:.0f} s ago")
    for line in _describe_ends(done.orphans, reconciled=reconcile):
        print(printable(line))
    if done.reported:
        print(f"reported {done.reported} artifacts to Dagster")
    raise typer.Exit(1 if done.survey.trouble else 0)


def _look_after(call: Call, *, reconcile: bool) -> _Done:
    """Survey the jobs and, if asked, do what follows; the instance knows their runs."""
    from morphseq_dagster.build import build_definitions
    from morphseq_dagster.cli.launch import open_instance
    from morphseq_dagster.sensors.cluster_jobs import report_done, settle_cluster, survey_cluster

    settings = call.settings.places.slurm
    with open_instance() as (instance, lasting):
        survey = survey_cluster(instance, workspace=call.workspace, settings=settings)
        answered_at = time.time()
        if not reconcile or settings is None:
            return _Done(survey, answered_at, survey.orphans)
        orphans = settle_cluster(workspace=call.workspace, settings=settings, survey=survey)
        if not lasting:
            return _Done(survey, answered_at, orphans)
        reported = report_done(
            instance,
            orphans=orphans,
            graph=lambda: build_definitions(call.settings, pipeline=call.pipeline).resolve_asset_graph(),
            workspace=call.workspace,
        )
    return _Done(survey, answered_at, orphans, reported.reported)


def _describe_ends(orphans: Sequence[Orphan], *, reconciled: bool) -> Iterator[str]:
    """Say what becomes of each job whose run is not at it, and how to have it done."""
    words = _DEEDS if reconciled else _PLANS
    for orphan in orphans:
        name = f"{orphan.experiment} {orphan.step}, job {orphan.attempt.job or '?'}"
        if orphan.action in words:
            yield f"{name}: {words[orphan.action]} ({orphan.reason})"
        elif orphan.run.state in ("canceled", "over"):
            yield f"{name}: left alone ({orphan.reason})"
    if not reconciled and any(
        orphan.action in (OrphanAction.DONE, OrphanAction.CLOSED, OrphanAction.CANCELLED) for orphan in orphans
    ):
        yield "`morphseq jobs --reconcile` does so"


def _draw(orphans: Sequence[Orphan], *, folders: bool) -> Iterator[str]:
    cells = [
        (
            orphan.step,
            orphan.experiment,
            orphan.attempt.job or "?",
            str(orphan.attempt.number),
            *_describe(orphan),
            format_age(orphan.attempt.age_s),
        )
        for orphan in orphans
    ]
    widths = [max(len(row[i]) for row in (_HEAD, *cells)) for i in range(len(_HEAD))]
    for number, row in enumerate((_HEAD, *cells)):
        yield "  ".join(printable(text).ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()
        if folders and number:
            yield f"  {orphans[number - 1].attempt.folder}"


def _describe(orphan: Orphan) -> tuple[str, str, str]:
    """State, reason and node: from the scheduler, or else from the files."""
    row = orphan.row
    if row is not None:
        return row.state, row.reason or "-", row.node or "-"
    start, end = orphan.attempt.record("start"), orphan.attempt.record("end")
    if end is not None:
        state = f"ended with code {end.get('rc')}"
    elif orphan.attempt.owner() == VOID:
        state = "given up"
    else:
        state = "started" if start is not None else "unknown"
    return state, "-", str((start or {}).get("node", "")) or "-"
