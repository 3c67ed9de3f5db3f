"""`morphseq reconcile`: what was edited, deleted or replaced behind the pipeline's back, and what to do.

It only reports unless an option makes it act. Only `--report-to-dagster` needs Dagster.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from morphseq_dagster.cli.messages import describe_error, group_lines, print_json, printable
from morphseq_dagster.cli.options import Call, Experiments, Form, Format, refuse_call, refusing_call, split_names, verb
from morphseq_dagster.engine.planner.inventory import list_artifacts
from morphseq_dagster.engine.planner.reconcile import Finding, Kind, Reconciliation, find_departed
from morphseq_dagster.engine.planner.reconcile import reconcile as compare_with_records
from morphseq_dagster.engine.planner.reconcile_actions import discard, keep, refresh
from morphseq_dagster.engine.planner.retirement import read_retired
from morphseq_dagster.engine.planner.status import refuse_unknown
from morphseq_dagster.errors import MorphseqError, PermanentError

_PICTURES: Final = 5
_HINTS: Final = {
    "keep": "morphseq reconcile --keep PATH     the edit is right: record it, what depends on it is made again",
    "discard": "morphseq reconcile --discard PATH  the edit is wrong: the step makes the file again",
    "refresh": "morphseq reconcile --refresh       same content: take the new times into the records",
    "adopt": "morphseq adopt                     check the file and give it a record",
}


@verb(example="morphseq reconcile --experiments 20250529_ctrl")
def reconcile(
    call: Call,
    *,
    experiments: Experiments = None,
    keep_paths: Annotated[
        list[Path] | None, typer.Option("--keep", help="Declare this edited file valid. May be given several times.")
    ] = None,
    discard_paths: Annotated[
        list[Path] | None, typer.Option("--discard", help="Have this file made again. May be given several times.")
    ] = None,
    refresh_records: Annotated[
        bool, typer.Option("--refresh", help="Take new times and inodes of unchanged content into the records.")
    ] = False,
    hash_all: Annotated[
        bool, typer.Option("--hash", help="Read and hash every file, not only suspicious ones.")
    ] = False,
    to_dagster: Annotated[
        bool, typer.Option("--report-to-dagster", help="Report every artifact that Dagster does not know yet.")
    ] = False,
    form: Form = Format.table,
) -> None:
    """Find files that were edited, deleted or replaced.

    All files are compared with their records. Exit code 1 while findings remain.
    """
    layout = call.workspace.layout
    chosen = None
    if experiments is not None:
        known = [source.name for source in call.workspace.pipeline.find_sources(layout) if not source.reason]
        known += [entry.experiment for entry in list_artifacts(call.workspace)]
        with refusing_call():
            chosen = split_names(experiments)
            refuse_unknown(chosen, keys=call.workspace.pipeline.keys, known=known)
    failures = _act(keep_paths or (), "kept", lambda path: keep(call.workspace, _absolute(path, call=call)))
    failures += _act(
        discard_paths or (), "to be made again", lambda p: discard(call.workspace, _absolute(p, call=call))
    )
    found = compare_with_records(call.workspace, experiments=chosen, hash_all=hash_all, on_progress=_progress(form))
    if refresh_records:
        touched = [layout.absolute(f.path) for f in found.findings if f.kind is Kind.TOUCHED]
        failures += _act(touched, "refreshed", lambda path: refresh(call.workspace, path))
        found = compare_with_records(call.workspace, experiments=chosen, hash_all=False)
    departed = find_departed(call.workspace)
    retired = read_retired(call.workspace)
    departed = {n: c for n, c in departed.items() if n not in retired and (chosen is None or n in chosen)}
    if form is Format.json:
        print_json(_encode(found, departed=departed, data_root=str(layout.data_root)))
    else:
        print("\n".join(_draw(found, departed=departed, verbose=call.verbose)))
    if to_dagster:
        _report(call, experiments=chosen)
    raise typer.Exit(1 if failures or found.remaining else 0)


def _absolute(path: Path, *, call: Call) -> Path:
    """Take a path as the shell or the report gives it: from here, or from the data root."""
    here = path.absolute()
    return here if here.exists() or path.is_absolute() else call.workspace.data_root / path


def _act(paths: Iterable[Path], done: str, action: Callable[[Path], object]) -> int:
    failures = 0
    for path in paths:
        try:
            action(path)
        except MorphseqError as error:
            failures += 1
            print(f"{printable(str(path))}: {describe_error(error)}", file=sys.stderr)
        else:
            print(f"{printable(str(path))}: {done}", file=sys.stderr)
    return failures


def _report(call: Call, *, experiments: tuple[str, ...] | None) -> None:
    from morphseq_dagster.assets.reporting import report_records
    from morphseq_dagster.build import build_definitions
    from morphseq_dagster.cli.launch import open_instance

    with open_instance() as (instance, lasting):
        if not lasting:
            refuse_call(
                PermanentError(
                    expected="a Dagster home that lasts",
                    found="DAGSTER_HOME is not set",
                    where="morphseq reconcile --report-to-dagster",
                    remedy="export DAGSTER_HOME, or `make install`",
                )
            )
        graph = build_definitions(call.settings, pipeline=call.pipeline).resolve_asset_graph()
        done = report_records(
            instance,
            graph=graph,
            workspace=call.workspace,
            experiments=experiments,
            on_progress=_progress(Format.table),
        )
    print(
        f"reported {done.reported} artifacts and {done.tombstones} missing files to Dagster; {done.known} were known, "
        f"{done.registered} experiments registered",
        file=sys.stderr,
    )
    for line in group_lines([(path, f": {reason}") for path, reason in done.refused], everything=call.verbose):
        print(f"  left out {line}", file=sys.stderr)


def _progress(form: Format) -> Callable[[int, int], None] | None:
    if form is Format.json or not sys.stderr.isatty():
        return None

    def show(done: int, total: int) -> None:
        if done % max(1, total // 100) == 0 or done == total:
            print(f"\r{done}/{total}", end="\n" if done == total else "", file=sys.stderr, flush=True)

    return show


def _draw(found: Reconciliation, *, departed: dict[str, int], verbose: bool) -> Iterable[str]:
    yield f"{found.checked} artifacts compared with their records"
    actions: set[str] = set()
    shown = found.findings if verbose else found.remaining
    for finding in shown:
        actions |= set(finding.actions)
        yield from _draw_finding(finding, verbose=verbose)
    touched = sum(finding.is_harmless for finding in found.findings)
    if touched and not verbose:
        actions.add("refresh")
        yield f"{touched} have their content and other times or inodes (a copied tree?): each look hashes them anew"
    for path, holder in found.busy:
        yield f"left out   {printable(path)}: {printable(holder)}"
    for name, count in departed.items():
        yield f"departed   {printable(name)}: no raw folder, {count} records (morphseq retire {printable(name)})"
    counts = Counter(finding.kind.value for finding in found.remaining)
    yield ", ".join(f"{count} {kind}" for kind, count in sorted(counts.items())) or "no findings"
    yield from (_HINTS[action] for action in _HINTS if action in actions)


def _draw_finding(finding: Finding, *, verbose: bool) -> Iterable[str]:
    yield f"{finding.kind.value:<18} {printable(finding.path)}: {printable(finding.detail)}"
    pictures = finding.pictures if verbose else finding.pictures[:_PICTURES]
    yield from (f"{'':<18}   {picture.change.value:<9} {printable(picture.path)}" for picture in pictures)
    if len(pictures) < len(finding.pictures):
        yield f"{'':<18}   and {len(finding.pictures) - len(pictures)} more (--verbose)"


def _encode(found: Reconciliation, *, departed: dict[str, int], data_root: str) -> dict[str, Any]:
    return {
        "schema": "morphseq.reconcile",
        "version": 1,
        "data_root": data_root,
        "checked": found.checked,
        "remaining": len(found.remaining),
        "findings": [asdict(finding) for finding in found.findings],
        "busy": [{"path": path, "holder": holder} for path, holder in found.busy],
        "departed": [{"experiment": name, "records": count} for name, count in departed.items()],
    }
