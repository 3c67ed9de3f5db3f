"""`morphseq demo`: make the synthetic plate if it is not there, run it to the final table, show the result."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from morphseq_dagster.cli.options import Call, verb
from morphseq_dagster.cli.runs import run_chains
from morphseq_dagster.morphseq.discovery import list_folders
from morphseq_dagster.morphseq.paths import SENTINELS, truth

if TYPE_CHECKING:
    from rich.table import Table

EXPERIMENT: Final = "20240418_demo"
_YES: Final = ("True", "true", "1")


class Difficulty(StrEnum):
    """Levels of the demo plate."""

    easy = "easy"
    middle = "middle"
    hard = "hard"


@dataclass(frozen=True)
class WellSummary:
    """One well of the final table.

    Parameters
    ----------
    well
        Name of the well.
    embryos, rows, usable
        Distinct embryos, rows, and rows with `use_embryo_flag`.
    deaths
        Embryo and the last frame before its decline.
    """

    well: str
    embryos: int
    rows: int
    usable: int
    deaths: tuple[tuple[str, str], ...]


@verb(example="morphseq demo")
def demo(
    call: Call,
    *,
    difficulty: Annotated[Difficulty, typer.Option(help="Contrast and noise of the pictures.")] = Difficulty.middle,
) -> None:
    """Run a synthetic plate from raw files to the final table.

    The plate is made first, unless it is there already; a summary of the table follows.
    """
    experiment = EXPERIMENT if difficulty is Difficulty.middle else f"{EXPERIMENT}-{difficulty}"
    _make(call, experiment=experiment, difficulty=difficulty)
    failures = _run(call, experiment=experiment)
    final = call.workspace.output(call.workspace.pipeline.final, experiment=experiment)
    if final.is_file():
        _show(call, experiment=experiment, final=final)
    raise typer.Exit(1 if failures else 0)


def summarise(final: Path) -> tuple[WellSummary, ...]:
    """Count embryos, rows, usable rows and deaths of every well of a final table."""
    with final.open(encoding="utf-8", newline="") as handle:
        rows = list(csv.DictReader(handle))
    summaries = []
    for well in sorted({row["well"] for row in rows}):
        own = [row for row in rows if row["well"] == well]
        deaths = {row["embryo_id"]: row["dead_inflection_time_int"] for row in own if row["dead_inflection_time_int"]}
        summaries.append(
            WellSummary(
                well,
                embryos=len({row["embryo_id"] for row in own}),
                rows=len(own),
                usable=sum(row["use_embryo_flag"] in _YES for row in own),
                deaths=tuple(sorted(deaths.items())),
            )
        )
    return tuple(summaries)


def _make(call: Call, *, experiment: str, difficulty: Difficulty) -> None:
    if any(folder.name == experiment for folder in list_folders(call.workspace.layout)):
        print(f"{experiment} is there already")
        return
    from rich.progress import Progress

    from morphseq_dagster.demo.plate import make_plate

    with Progress(transient=True) as bar:
        task = bar.add_task(f"making {experiment}", total=None)
        make_plate(
            call.workspace.data_root,
            truth_folder=truth(call.workspace.layout, experiment),
            experiment=experiment,
            difficulty=difficulty.value,
            on_progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    folder = next(f for f in list_folders(call.workspace.layout) if f.name == experiment)
    (folder.path / SENTINELS[0]).touch()
    print(f"made {folder.path}")


def _run(call: Call, *, experiment: str) -> int:
    from morphseq_dagster.engine.planner.plan import find_pending

    plan = find_pending(call.workspace, experiment=experiment, steps=set(call.workspace.pipeline.step_names))
    return run_chains(call, {experiment: [pending.step for pending in plan]}, bulk=False)


def _show(call: Call, *, experiment: str, final: Path) -> None:
    from rich.console import Console

    layout = call.workspace.layout
    Console(highlight=False).print(_draw(summarise(final), title=experiment))
    raw = next(folder.path for folder in list_folders(layout) if folder.name == experiment)
    places = {
        "raw microscope files": raw,
        "stitched frames": layout.folders("ff_images", experiment=experiment)[0],
        "pictures of every step": layout.preview("snips", experiment=experiment).parent,
        "masks": layout.folders("exported_masks", experiment=experiment)[0],
        "final table": final,
        "truth": truth(layout, experiment),
    }
    for words, path in places.items():
        print(f"{words:<24}{path}")
    print(f"{'web page':<24}make ui")


def _draw(summaries: tuple[WellSummary, ...], *, title: str) -> Table:
    from rich.table import Table

    table = Table("well", title=title, show_footer=True)
    sums = [sum(getattr(s, name) for s in summaries) for name in ("embryos", "rows", "usable")]
    for name, total in zip(("embryos", "rows", "usable rows"), sums, strict=True):
        table.add_column(name, str(total), justify="right")
    table.add_column("deaths", str(sum(len(s.deaths) for s in summaries)))
    for s in summaries:
        deaths = ", ".join(f"{embryo.rpartition('_')[2]} after frame {frame}" for embryo, frame in s.deaths)
        table.add_row(s.well, str(s.embryos), str(s.rows), str(s.usable), deaths)
    return table
