"""`morphseq doctor`: what is wrong with this machine or was left by killed work, and the command that mends it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from morphseq_dagster.cli.messages import printable
from morphseq_dagster.cli.options import DEFAULT_REGISTRY, Call, DataRoot, RegistryName, Verbose, open_call
from morphseq_dagster.errors import MorphseqError, PermanentError

if TYPE_CHECKING:
    from morphseq_dagster.cli.checks import Finding

_MARKS = {"ok": "ok", "note": "note", "problem": "PROBLEM"}


def doctor(
    fix: Annotated[bool, typer.Option("--fix", help="Mend what can be mended safely.")] = False,
    data_root: DataRoot = None,
    verbose: Verbose = False,
    registry: RegistryName = DEFAULT_REGISTRY,
) -> None:
    """Look for trouble: disk, interrupted work, dead runs, versions. Exit code 1 while a problem stands."""
    del verbose
    call = open_call(data_root, registry=registry)
    home, wrong = _find_home()
    findings = [*wrong, *_examine(call, home=home)]
    if fix and any(finding.fixable for finding in findings):
        _mend(call, home=home)
        findings = [*wrong, *_examine(call, home=home)]
    for finding in findings:
        print(f"{_MARKS[finding.level]:<8} {printable(finding.text)}")
        if finding.command:
            print(f"{'':<8} -> {printable(finding.command)}")
    problems = sum(finding.level == "problem" for finding in findings)
    print(f"{problems} problems" if problems else "nothing wrong")
    raise typer.Exit(1 if problems else 0)


def _find_home() -> tuple[Path | None, list[Finding]]:
    from morphseq_dagster.cli.checks import Finding
    from morphseq_dagster.cli.launch import find_home

    try:
        return find_home(), []
    except PermanentError as error:
        return None, [Finding("problem", f"{error.where} is {error.found!r}, not {error.expected}", error.remedy)]


def _examine(call: Call, *, home: Path | None) -> Iterator[Finding]:
    from morphseq_dagster.cli.checks import check_machine
    from morphseq_dagster.cli.weights import check_weights

    yield from check_machine(call.workspace, home=home)
    yield from check_weights(call.workspace)
    if home is not None:
        yield from _examine_runs()


def _examine_runs() -> Iterator[Finding]:
    from morphseq_dagster.cli.checks import FIX, Finding
    from morphseq_dagster.cli.dead_runs import find_dead_runs, find_dead_slots
    from morphseq_dagster.cli.launch import open_instance

    with open_instance() as (instance, _):
        dead = find_dead_runs(instance)
        slots = find_dead_slots(instance)
    for slot in slots:
        yield Finding("problem", slot.describe(), FIX, fixable=True)
    for run in dead:
        partition = run.tags.get("dagster/partition", "no experiment")
        yield Finding(
            "problem", f"run {run.run_id} ({partition}) is at work, but its process is gone", FIX, fixable=True
        )
    if not dead and not slots:
        yield Finding("ok", "no dead runs, no slots of pools held by any")


def _mend(call: Call, *, home: Path | None) -> None:
    from morphseq_dagster.storage.sweep import sweep

    try:
        report = sweep(call.workspace.layout, run_id="doctor")
    except (MorphseqError, OSError) as error:
        print(f"the data root could not be swept: {error}", file=sys.stderr)
    else:
        done = {
            "publication finished": report.rolled_forward,
            "claim of a dead process removed": report.broken_claims,
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
