"""`morphseq adopt`: give records to trees that other programs left, or to files whose records were lost.

It only shows what it would do unless you give `--apply`. The import itself is `adopt/importer.py`.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from morphseq_dagster.cli.messages import print_json, printable
from morphseq_dagster.cli.options import (
    Apply,
    Call,
    Experiments,
    Form,
    Format,
    refuse_call,
    refusing_call,
    split_names,
    verb,
)
from morphseq_dagster.engine.planner.status import refuse_unknown
from morphseq_dagster.errors import PermanentError

if TYPE_CHECKING:
    from morphseq_dagster.adopt.importer import ImportOutcome

_WORDS = {
    ("adopt", True): "adopted",
    ("adopt", False): "would adopt",
    ("make", True): "made",
    ("make", False): "would make",
}


@verb(example="morphseq adopt --experiments 20250529_ctrl")
def adopt(
    call: Call,
    *,
    experiments: Experiments = None,
    tree: Annotated[
        Path | None, typer.Option("--from", help="Root of the tree to adopt [default: the data root itself].")
    ] = None,
    apply: Apply = False,
    without_inputs: Annotated[
        bool,
        typer.Option("--without-inputs", help="Adopt although something before it is missing (raw data on tape)."),
    ] = False,
    form: Form = Format.table,
) -> None:
    """Give records to files that are there already.

    Each file is checked first. Exit code 1 if something was refused.
    """
    from morphseq_dagster.adopt.importer import Import, find_experiments

    root = call.workspace.data_root if tree is None else tree.absolute()
    if not root.is_dir():
        refuse_call(
            PermanentError(expected="a folder", found="none", where=str(root), remedy="name the root of the tree")
        )
    run = Import(call.workspace, root, apply=apply, without_inputs=without_inputs)
    run.split(on_file=lambda path: _say(f"cutting {path} into pieces, once"))
    for split, _ in run.splits.values():
        if split.refused_count:
            _say(f"{split.source}: {split.refused_count} entries of no experiment, the first {split.refused[0]}")
    known = find_experiments(
        run, known=[s.name for s in call.workspace.pipeline.find_sources(call.workspace.layout) if not s.reason]
    )
    names = known
    if experiments is not None:
        with refusing_call():
            names = split_names(experiments)
            refuse_unknown(names, keys=call.workspace.pipeline.keys, known=known)
    outcomes: list[ImportOutcome] = []
    for number, name in enumerate(names):
        if sys.stderr.isatty():
            _say(f"{number + 1}/{len(names)} {name}")
        found = list(run.run([name]))
        outcomes += found
        if form is Format.table:
            for line in _draw(found, verbose=call.verbose):
                print(line, flush=True)
    if form is Format.json:
        print_json(_encode(outcomes, apply=apply))
    else:
        print(_sum(outcomes, apply=apply))
    raise typer.Exit(1 if any(outcome.action == "refused" for outcome in outcomes) else 0)


def _say(text: str) -> None:
    print(printable(text), file=sys.stderr)


def _draw(outcomes: Iterable[ImportOutcome], *, verbose: bool) -> Iterable[str]:
    for outcome in outcomes:
        if outcome.action == "recorded" and not verbose:
            continue
        word = _WORDS.get((outcome.action, outcome.done), outcome.action)
        yield f"{outcome.experiment}  {outcome.step:<22} {word:<12} {printable(outcome.detail)}"
        yield from (f"{'':<{len(outcome.experiment)}}  {'':<22} note: {printable(w)}" for w in outcome.warnings)


def _sum(outcomes: list[ImportOutcome], *, apply: bool) -> str:
    counts = Counter(_WORDS.get((o.action, o.done), o.action) for o in outcomes)
    done = ", ".join(f"{count} {word}" for word, count in sorted(counts.items())) or "nothing found"
    waiting = any(o.action in ("adopt", "make") and not o.done for o in outcomes)
    return done + (" (--apply does it)" if waiting and not apply else "")


def _encode(outcomes: list[ImportOutcome], *, apply: bool) -> dict[str, Any]:
    return {
        "schema": "morphseq.adopt",
        "version": 1,
        "applied": apply,
        "outcomes": [asdict(outcome) for outcome in outcomes],
    }
