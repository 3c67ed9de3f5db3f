"""Choice of experiments by name and date: what `--experiments`, `--later-than` and `--earlier-than` mean.

Names are compared whole, so that no name selects another that begins like it. How the chosen ones run, each by itself
or all as one, is decided here too (`goes_as_bulk`); `runs.py` does it.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from morphseq_dagster.cli.messages import group_lines
from morphseq_dagster.engine.pipeline import FoundSource, Source
from morphseq_dagster.engine.planner.status import refuse_unknown
from morphseq_dagster.engine.workspace import Workspace
from morphseq_dagster.errors import PermanentError
from morphseq_dagster.runs.run_mode import wants_bulk
from morphseq_dagster.settings.machine import MachineSettings

ALL = "all"


@dataclass(frozen=True)
class Selection:
    """What was chosen, and what was left out for which reason.

    Parameters
    ----------
    experiments
        To be run, in order.
    refused
        Named ones that cannot be run; they count as failed.
    waiting
        Left out because files still arrive; only where nobody named them.
    """

    experiments: tuple[str, ...]
    refused: tuple[tuple[str, str], ...] = ()
    waiting: tuple[tuple[str, str], ...] = ()


def choose_experiments(
    workspace: Workspace, *, names: Sequence[str] | None, later_than: str | None = None, earlier_than: str | None = None
) -> Selection:
    """Choose experiments.

    Parameters
    ----------
    workspace
        Data root and pipeline.
    names
        As given; None or `all` takes every raw folder that is ready. Named ones are not waited for.
    later_than, earlier_than
        Dates YYYYMMDD; experiments of those very days are left out.

    Raises
    ------
    PermanentError
        When a name does not exist or a date is none.
    """
    for option, text in (("--later-than", later_than), ("--earlier-than", earlier_than)):
        if text is not None and not re.fullmatch(r"\d{8}", text, re.ASCII):
            raise PermanentError(
                expected="a date YYYYMMDD", found=repr(text), where=option, remedy="write the date as 8 digits"
            )
    folders = {source.name: source for source in workspace.pipeline.find_sources(workspace.layout)}
    if names is None or tuple(names) == (ALL,):
        return _choose_all(workspace, sources=folders, later_than=later_than, earlier_than=earlier_than)
    keys = workspace.pipeline.keys
    refuse_unknown(names, keys=keys, known=[name for name in folders if keys.refuse(name) is None])
    kept = [name for name in names if _is_between(name, later_than=later_than, earlier_than=earlier_than)]
    found = _inspect(workspace, [folders[name] for name in kept])
    return Selection(
        tuple(entry.name for entry in found if entry.state != "refused"),
        refused=tuple((entry.name, entry.reason) for entry in found if entry.state == "refused"),
    )


def _choose_all(
    workspace: Workspace, *, sources: Mapping[str, Source], later_than: str | None, earlier_than: str | None
) -> Selection:
    kept = [
        source
        for name, source in sources.items()
        if workspace.pipeline.keys.refuse(name) is None
        and _is_between(name, later_than=later_than, earlier_than=earlier_than)
    ]
    found = _inspect(workspace, kept)
    return Selection(
        tuple(entry.name for entry in found if entry.state == "ready"),
        waiting=tuple((entry.name, entry.reason) for entry in found if entry.state != "ready"),
    )


def _inspect(workspace: Workspace, sources: Sequence[Source]) -> list[FoundSource]:
    """Look into sources; a workflow without any takes names as they are."""
    how = workspace.pipeline.sources
    return [] if how is None else [how.inspect(workspace.layout, source) for source in sources]


def _is_between(name: str, *, later_than: str | None, earlier_than: str | None) -> bool:
    date = name[:8]
    return (later_than is None or date > later_than) and (earlier_than is None or date < earlier_than)


def goes_as_bulk(settings: MachineSettings, *, chains: Mapping[str, Sequence[str]]) -> bool:
    """Whether experiments, each with the steps that it must run, go as one run on this machine."""
    return wants_bulk(
        chains,
        place_of=lambda step, name: settings.place_of(step, experiment=name),
        chained=settings.places.chained,
    )


def show_choice(choice: Selection, *, verbose: bool) -> None:
    """Print what was left out, and on the error stream what was refused."""
    for line in group_lines([(name, f": left out, {reason}") for name, reason in choice.waiting], everything=verbose):
        print(line)
    for line in group_lines([(name, f": refused, {reason}") for name, reason in choice.refused], everything=verbose):
        print(line, file=sys.stderr)
    if not (choice.experiments or choice.refused):
        print("no experiment is chosen")
