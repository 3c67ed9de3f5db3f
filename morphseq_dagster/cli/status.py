"""`morphseq status`: one row per experiment; never writes a byte, needs no Dagster."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Final

import typer

from morphseq_dagster.cli.messages import group_lines, print_json
from morphseq_dagster.cli.options import Call, Experiments, Form, Format, refusing_call, split_names, verb
from morphseq_dagster.engine.layout import Layout
from morphseq_dagster.engine.planner.snapshot import ArtifactStatus, RemoteWork
from morphseq_dagster.engine.planner.status import StatusTable, encode_status, read_status

_COLOURS: Final = {
    "ok": "32",
    "missing": "2",
    "stale": "33",
    "pruned": "2",
    "failed": "31",
    "error": "31",
    "queued": "36",
    "running": "36",
    "degraded": "33",
    "unavailable": "2",
    "interrupted": "33",
}
_FEW_JOBS: Final = 10


@verb(example="morphseq status --experiments 20250529_ctrl")
def status(
    call: Call,
    *,
    experiments: Experiments = None,
    form: Form = Format.table,
    model_name: Annotated[
        str | None, typer.Option("--model-name", help="Latent model to look at [default: of each recipe].")
    ] = None,
) -> None:
    """Show the state of every experiment and why it is so.

    States: ok, missing, stale, failed, error, queued, running, degraded, unavailable, interrupted, pruned.
    """
    with refusing_call():
        chosen = None if experiments is None else split_names(experiments)
        found = read_status(
            call.workspace, experiments=chosen, model=model_name, remote=_look_at_jobs(call.workspace.layout)
        )
    if form is Format.json:
        print_json(encode_status(found, data_root=str(call.workspace.data_root)))
    else:
        print("\n".join(_draw(found, data_root=str(call.workspace.data_root), verbose=call.verbose)))


def _look_at_jobs(layout: Layout) -> Mapping[tuple[str, str], RemoteWork]:
    """How the cluster's jobs stand, from their files; most data roots never saw a cluster."""
    if not layout.jobs.is_dir():
        return {}
    from morphseq_dagster.cluster.job_summary import summarise_jobs

    return summarise_jobs(layout)


def _draw(status: StatusTable, *, data_root: str, verbose: bool) -> Iterable[str]:
    """Draw the table by hand: drawing 3,000 cells with a library takes longer than reading their records."""
    yield f"data root {data_root}, {len(status.rows)} experiments"
    if status.rows:
        yield ""
        yield from _draw_table(status)
        bottleneck = status.bottleneck()
        if bottleneck is not None:
            yield ""
            yield (
                f"{bottleneck.column} holds up most: {bottleneck.stuck} of {bottleneck.total} experiments have "
                f"everything before it"
            )
    yield from _draw_jobs(status, verbose=verbose)
    yield from _draw_stale(status, verbose=verbose)
    states = (
        ("failed", "interrupted") if not verbose else ("failed", "interrupted", "degraded", "unavailable", "running")
    )
    yield from _draw_list("failed or interrupted" if not verbose else "not ok", status.having(*states), verbose=verbose)
    if verbose:
        waiting = [(name, cell) for name, cell in status.having("missing") if cell.reason]
        yield from _draw_list("missing", waiting, verbose=verbose)
    yield from _draw_list("could not be read", status.unreadable, verbose=verbose)
    looked = status.relied + status.skipped
    if looked:
        yield ""
        yield f"{looked} folders with too many files for a quick look: {status.relied} by the last scan, the others not"
        yield "looked into; `morphseq stale` looks into all"
    if status.refused:
        yield ""
        yield f"raw folders that are no experiments ({len(status.refused)}):"
        refused = group_lines([(name, f": {reason}") for name, reason in status.refused], everything=verbose)
        yield from (f"  {line}" for line in refused)


def _draw_table(status: StatusTable) -> Iterable[str]:
    head = ["EXPERIMENT", *status.columns]
    percents = ["%", *(f"{stage.percent:.0f}" for stage in status.cohort())]
    body = [[row.experiment, *(row.columns[name].state for name in status.columns)] for row in status.rows]
    total = len(status.rows)
    sums = ["done", *(f"{stage.done}/{total}" for stage in status.cohort())]
    widths = [max(len(line[i]) for line in (head, *body, sums, percents)) for i in range(len(head))]
    plain = not sys.stdout.isatty()
    for line in (head, *body, sums, percents):
        cells = [text.ljust(width) for text, width in zip(line, widths, strict=True)]
        if not plain and line not in (head, sums, percents):
            states = zip(line[1:], cells[1:], strict=True)
            cells[1:] = [f"\033[{_COLOURS[state]}m{cell}\033[0m" for state, cell in states]
        yield "  ".join(cells).rstrip()


def _draw_jobs(status: StatusTable, *, verbose: bool) -> Iterable[str]:
    """Steps with a cluster job; a few of many unless more is asked for."""
    entries = [(name, cell) for name, cell in status.having("queued", "running") if cell.state == "queued" or cell.job]
    shown = entries if verbose else entries[:_FEW_JOBS]
    yield from _draw_list("at the cluster, as their files show", shown, verbose=verbose)
    if len(entries) > len(shown):
        yield f"  and {len(entries) - len(shown)} more; `morphseq jobs` asks the cluster"


def _draw_stale(status: StatusTable, *, verbose: bool) -> Iterable[str]:
    """Stale steps by their own reasons; those that merely follow are counted unless more is asked for."""
    stale = status.having("stale")
    own = [(name, cell) for name, cell in stale if verbose or not cell.reason.startswith("after ")]
    followers = len(stale) - len(own)
    yield from _draw_list("stale", own, verbose=verbose)
    if followers:
        yield f"  and {followers} steps after these"


def _draw_list(title: str, cells: Sequence[tuple[str, ArtifactStatus]], *, verbose: bool) -> Iterable[str]:
    if cells:
        yield ""
        yield f"{title} ({len(cells)}):"
        entries = [(name, f" {cell.step}: {cell.reason}") for name, cell in cells]
        yield from (f"  {line}" for line in group_lines(entries, everything=verbose))
