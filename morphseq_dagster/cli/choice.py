"""Choice of experiments by name and date: what `--experiments`, `--later-than` and `--earlier-than` mean.

Holds the selection only. Names are compared whole, so that no name selects another that begins like it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from morphseq_dagster.engine.layout import Layout
from morphseq_dagster.errors import PermanentError
from morphseq_dagster.identifiers import refuse_experiment
from morphseq_dagster.morphseq.discovery import RawFolder, inspect_folder, list_folders

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
    layout: Layout, *, names: Sequence[str] | None, later_than: str | None = None, earlier_than: str | None = None
) -> Selection:
    """Choose experiments.

    Parameters
    ----------
    layout
        Paths of the data root.
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
    folders = {folder.name: folder for folder in list_folders(layout)}
    if names is None or tuple(names) == (ALL,):
        return _choose_all(layout, folders=folders, later_than=later_than, earlier_than=earlier_than)
    from morphseq_dagster.engine.planner.status import refuse_unknown

    refuse_unknown(names, known=[name for name in folders if refuse_experiment(name) is None])
    kept = [name for name in names if _is_between(name, later_than=later_than, earlier_than=earlier_than)]
    found = [inspect_folder(layout, folder=folders[name]) for name in kept]
    return Selection(
        tuple(entry.name for entry in found if entry.state != "refused"),
        refused=tuple((entry.name, entry.reason) for entry in found if entry.state == "refused"),
    )


def _choose_all(
    layout: Layout, *, folders: dict[str, RawFolder], later_than: str | None, earlier_than: str | None
) -> Selection:
    kept = [
        folder
        for name, folder in folders.items()
        if refuse_experiment(name) is None and _is_between(name, later_than=later_than, earlier_than=earlier_than)
    ]
    found = [inspect_folder(layout, folder=folder) for folder in kept]
    return Selection(
        tuple(entry.name for entry in found if entry.state == "ready"),
        waiting=tuple((entry.name, entry.reason) for entry in found if entry.state != "ready"),
    )


def _is_between(name: str, *, later_than: str | None, earlier_than: str | None) -> bool:
    date = name[:8]
    return (later_than is None or date > later_than) and (earlier_than is None or date < earlier_than)
