"""`morphseq doctor`: what is wrong with this machine or was left by killed work, and the command that mends it."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from morphseq_dagster.cli.checks import FIX, CheckResult, check_machine, ok, problem
from morphseq_dagster.cli.messages import printable
from morphseq_dagster.cli.options import Call, refuse_call, verb
from morphseq_dagster.errors import MorphseqError, PermanentError

_MARKS = {"ok": "ok", "note": "note", "problem": "PROBLEM"}


@verb(example="morphseq doctor --fix")
def doctor(
    call: Call,
    *,
    fix: Annotated[bool, typer.Option("--fix", help="Mend what can be mended safely.")] = False,
    slurm: Annotated[bool, typer.Option("--slurm", help="Look at the cluster alone.")] = False,
    live: Annotated[
        bool, typer.Option("--live", help="With --slurm: also submit a trivial job to each partition in use.")
    ] = False,
    limit: Annotated[float, typer.Option("--limit", help="Seconds for the jobs of --live.", min=1)] = 120.0,
) -> None:
    """Look for trouble, and mend it with --fix.

    Looked at are disk, interrupted work, dead runs, versions, weights and the cluster. Exit code 1 while a problem
    stands.
    """
    if slurm or live:
        _refuse_without_cluster(call, slurm=slurm, fix=fix)
        _print(_examine_cluster(call, live=live, limit_s=limit))
    home, wrong = _find_home()
    findings = [*wrong, *_examine(call, home=home)]
    if fix and any(finding.fixable for finding in findings):
        _mend(call, home=home)
        findings = [*wrong, *_examine(call, home=home)]
    _print([*findings, *_examine_cluster(call)])


def _print(findings: Iterable[CheckResult]) -> NoReturn:
    """Print findings as they come, and end with the exit code that they deserve."""
    problems = 0
    for finding in findings:
        problems += finding.level == "problem"
        print(f"{_MARKS[finding.level]:<8} {printable(finding.text)}")
        if finding.command:
            print(f"{'':<8} -> {printable(finding.command)}")
    print(f"{problems} problems" if problems else "nothing wrong")
    raise typer.Exit(1 if problems else 0)


def _refuse_without_cluster(call: Call, *, slurm: bool, fix: bool) -> None:
    wrong = "--live without --slurm" if not slurm else "--fix, which mends nothing there" if fix else ""
    wrong = wrong or ("no section places.slurm" if call.settings.places.slurm is None else "")
    if wrong:
        refuse_call(
            PermanentError(
                expected="a cluster to look at, by --slurm, or --slurm --live",
                found=wrong,
                where="morphseq doctor",
                remedy="name the cluster in morphseq.toml; `morphseq doctor` alone looks at this machine and at both",
            )
        )


def _examine_cluster(call: Call, *, live: bool = False, limit_s: float = 0.0) -> Iterator[CheckResult]:
    """Look at the cluster of the settings, if there is one; with trivial jobs when asked."""
    settings, layout = call.settings.places.slurm, call.workspace.layout
    if settings is None or not layout.data_root.is_dir():
        return
    from morphseq_dagster.cli.cluster_checks import check_cluster

    try:
        yield from check_cluster(settings, layout=layout)
        if live:
            from morphseq_dagster.cli.cluster_trial import try_cluster

            yield from try_cluster(settings, layout=layout, limit_s=limit_s)
    except (MorphseqError, OSError) as error:
        yield problem(f"the cluster could not be looked at: {error}", "correct places.slurm")


def _find_home() -> tuple[Path | None, list[CheckResult]]:
    from morphseq_dagster.cli.launch import find_home

    try:
        return find_home(), []
    except PermanentError as error:
        return None, [problem(f"{error.where} is {error.found!r}, not {error.expected}", error.remedy)]


def _examine(call: Call, *, home: Path | None) -> Iterator[CheckResult]:
    from morphseq_dagster.cli.weights import check_weights

    yield from check_machine(call.workspace, home=home)
    yield from check_weights(call.workspace)
    if home is not None:
        yield from _examine_runs()


def _examine_runs() -> Iterator[CheckResult]:
    from morphseq_dagster.cli.dead_runs import find_dead_runs, find_dead_slots
    from morphseq_dagster.cli.launch import open_instance

    with open_instance() as (instance, _):
        dead = find_dead_runs(instance)
        slots = find_dead_slots(instance)
    for slot in slots:
        yield problem(slot.describe(), FIX, fixable=True)
    for run in dead:
        partition = run.tags.get("dagster/partition", "no experiment")
        yield problem(f"run {run.run_id} ({partition}) is at work, but its process is gone", FIX, fixable=True)
    if not dead and not slots:
        yield ok("no dead runs, no slots of pools held by any")


def _mend(call: Call, *, home: Path | None) -> None:
    from morphseq_dagster.cluster.open_jobs import find_open_jobs
    from morphseq_dagster.engine.storage.sweep import sweep

    layout = call.workspace.layout
    try:
        report = sweep(
            layout,
            run_id="doctor",
            is_at_work=lambda experiment, step: bool(find_open_jobs(layout, step=step, experiment=experiment)),
        )
    except (MorphseqError, OSError) as error:
        print(f"the data root could not be swept: {error}", file=sys.stderr)
    else:
        done = {
            "publication finished": report.rolled_forward,
            "claim of a dead process removed": report.broken_locks,
            "temporary removed": report.removed,
        }
        for words, paths in done.items():
            for path in paths:
                print(f"fixed    {words}: {path}")
    if home is None:
        return
    from morphseq_dagster.cli.dead_runs import end_dead_run, find_dead_runs, find_dead_slots, free_slots
    from morphseq_dagster.cli.launch import open_instance

    with open_instance() as (instance, _):
        for slot in find_dead_slots(instance):
            free_slots(instance, slot.run_id)
            print(f"fixed    {slot.describe()}: freed")
        for run in find_dead_runs(instance):
            end_dead_run(instance, run)
            print(f"fixed    run {run.run_id} marked as cancelled, its slots freed")
