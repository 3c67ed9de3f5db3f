"""`morphseq adopt`: bring trees that other programs left, or files whose records were lost, into the records.

Says what it would do unless told to apply it. Needs no Dagster.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from morphseq_dagster.cli.messages import printable
from morphseq_dagster.cli.options import (
    DEFAULT_PIPELINE,
    DataRoot,
    Experiments,
    PipelineName,
    Verbose,
    open_call,
    refuse_call,
    refusing_call,
    split_names,
)
from morphseq_dagster.cli.status import Format
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


def adopt(
    *,
    experiments: Experiments = None,
    tree: Annotated[
        Path | None, typer.Option("--from", help="Root of the tree to adopt [default: the data root itself].")
    ] = None,
    apply: Annotated[bool, typer.Option("--apply", help="Do it; without, say what would be done.")] = False,
    without_inputs: Annotated[
        bool,
        typer.Option("--without-inputs", help="Adopt although something before it is missing (raw data on tape)."),
    ] = False,
    form: Annotated[Format, typer.Option("--format", help="Form of the output.")] = Format.table,
    data_root: DataRoot = None,
    verbose: Verbose = False,
    pipeline: PipelineName = DEFAULT_PIPELINE,
) -> None:
    """Give records to files that are there already, after checking them; exit code 1 if something was refused."""
    from morphseq_dagster.adopt.importer import Import, find_experiments

    call = open_call(data_root, pipeline=pipeline)
    root = call.workspace.data_root if tree is None else tree.absolute()
    if not root.is_dir():
        refuse_call(
            PermanentError(expected="a folder", found="none", where=str(root), remedy="name the root of the tree")
        )
    campaign = Import(call.workspace, root, apply=apply, without_inputs=without_inputs)
    campaign.split(on_file=lambda path: _say(f"cutting {path} into pieces, once"))
    for split, _ in campaign.splits.values():
        if split.refused_count:
            _say(f"{split.source}: {split.refused_count} entries of no experiment, the first {split.refused[0]}")
    known = find_experiments(
        campaign, known=[s.name for s in call.workspace.pipeline.find_sources(call.workspace.layout) if not s.reason]
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
        found = list(campaign.run([name]))
        outcomes += found
        if form is Format.table:
            for line in _draw(found, verbose=verbose):
                print(line, flush=True)
    if form is Format.json:
        print(json.dumps(_encode(outcomes, apply=apply), indent=1))
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
    told = ", ".join(f"{count} {word}" for word, count in sorted(counts.items())) or "nothing found"
    waiting = any(o.action in ("adopt", "make") and not o.done for o in outcomes)
    return told + (" (--apply does it)" if waiting and not apply else "")


def _encode(outcomes: list[ImportOutcome], *, apply: bool) -> dict[str, Any]:
    return {
        "schema": "morphseq.adopt",
        "version": 1,
        "applied": apply,
        "outcomes": [
            {
                "experiment": outcome.experiment,
                "step": outcome.step,
                "action": outcome.action,
                "done": outcome.done,
                "detail": outcome.detail,
                "warnings": list(outcome.warnings),
            }
            for outcome in outcomes
        ],
    }
