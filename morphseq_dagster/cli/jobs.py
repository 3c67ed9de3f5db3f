"""`morphseq jobs`: every cluster job without a verdict - state, reason, age of the answer, node, experiment, step."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

import typer

from morphseq_dagster.cli.messages import printable
from morphseq_dagster.cli.options import DEFAULT_REGISTRY, Call, DataRoot, RegistryName, Verbose, open_call
from morphseq_dagster.errors import MorphseqError
from morphseq_dagster.slurm.client import Client
from morphseq_dagster.slurm.commands import Row
from morphseq_dagster.slurm.folder import VOID, Attempt, JobRoot

_HEAD = ("STEP", "EXPERIMENT", "JOB", "ATTEMPT", "STATE", "REASON", "NODE", "AGE")


@dataclass(frozen=True)
class _Line:
    step: str
    experiment: str
    attempt: Attempt
    state: str
    reason: str
    node: str


def jobs(data_root: DataRoot = None, verbose: Verbose = False, registry: RegistryName = DEFAULT_REGISTRY) -> None:
    """Show the cluster jobs at work, and those whose end nobody saw. Exit code 1 when the cluster is mute."""
    call = open_call(data_root, registry=registry)
    client = _connect(call)
    root = JobRoot(call.workspace.layout.jobs) if client is None else client.root
    found = list(root.open_attempts())
    if not found:
        print("no jobs")
        raise typer.Exit(0)
    asked_at = time.time()
    rows, trouble = _ask(client, attempts=[attempt for _, _, attempt in found])
    lines = [_describe(group, attempt, rows=rows) for group, _, attempt in found]
    print("\n".join(_draw(lines, folders=verbose)))
    if trouble:
        print(f"the cluster could not be asked: {printable(trouble)}")
    else:
        print(f"as the cluster said {time.time() - asked_at:.0f} s ago")
    raise typer.Exit(1 if trouble else 0)


def _connect(call: Call) -> Client | None:
    """Client of the cluster in the settings; None when they name none."""
    settings = call.settings.places.slurm
    if settings is None:
        return None
    from morphseq_dagster.places.connection import connect

    return connect(settings, data_root=call.workspace.layout.data_root)[0]


def _ask(client: Client | None, *, attempts: list[Attempt]) -> tuple[dict[str, Row], str]:
    """Ask about all jobs in one question, by token; the reason when there is no answer."""
    if client is None:
        return {}, "the machine settings have no section places.slurm"
    try:
        reply = client.scheduler.queue(jobs=[attempt.job for attempt in attempts if attempt.job])
    except MorphseqError as error:
        return {}, error.found
    found = {attempt.token: reply.of_job(attempt.job or "", name=attempt.token) for attempt in attempts}
    return {token: row for token, row in found.items() if isinstance(row, Row)}, ""


def _describe(group: tuple[str, ...], attempt: Attempt, *, rows: dict[str, Row]) -> _Line:
    row = rows.get(attempt.token)
    step, experiment = (*group, "", "")[:2]
    if row is not None:
        return _Line(step, experiment, attempt, row.state, row.reason or "", row.node)
    start, end = attempt.record("start"), attempt.record("end")
    if end is not None:
        state = f"ended with code {end.get('rc')}"
    elif attempt.owner() == VOID:
        state = "given up"
    else:
        state = "started" if start is not None else "unknown"
    return _Line(step, experiment, attempt, state, "", str((start or {}).get("node", "")))


def _draw(lines: list[_Line], *, folders: bool) -> Iterator[str]:
    cells = [
        (
            line.step,
            line.experiment,
            line.attempt.job or "?",
            str(line.attempt.number),
            line.state,
            line.reason or "-",
            line.node or "-",
            _age(line.attempt.age_s),
        )
        for line in lines
    ]
    widths = [max(len(row[i]) for row in (_HEAD, *cells)) for i in range(len(_HEAD))]
    for number, row in enumerate((_HEAD, *cells)):
        yield "  ".join(printable(text).ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()
        if folders and number:
            yield f"  {lines[number - 1].attempt.folder}"


def _age(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.0f} h"
