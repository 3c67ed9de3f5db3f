"""Display of runs in the terminal: a bar where somebody watches, plain lines elsewhere.

Dagster redirects the standard streams while steps run, so the display keeps its own. The runs are started in
`launch.py`.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar

from morphseq_dagster.cli.messages import printable
from morphseq_dagster.engine.contract.progress import Progress

_WORDS = {"made": "made", "standing": "stands", "failed": "FAILED"}


@dataclass(frozen=True)
class StepEvent:
    """Something that happened to a step: it started, was made, stands as it is, or failed."""

    step: str
    kind: str
    message: str = ""


@dataclass(frozen=True)
class RunOutcome:
    """How the run of one experiment ended.

    Parameters
    ----------
    experiment
        Experiment id; empty for the cohort.
    made, standing
        Steps that were made, and steps that stand as they are.
    failed
        Step and message of every failure; a step of "" is the run itself.
    untried
        Steps that were not tried because one before them failed.
    seconds
        Wall time.
    """

    experiment: str
    made: tuple[str, ...] = ()
    standing: tuple[str, ...] = ()
    failed: tuple[tuple[str, str], ...] = ()
    untried: tuple[str, ...] = ()
    seconds: float = 0.0


class Display:
    """Progress of several experiments, used as a context.

    Parameters
    ----------
    total
        Number of steps of all experiments.
    """

    def __init__(self, *, total: int) -> None:
        self._stream = os.fdopen(os.dup(sys.stderr.fileno()), "w", encoding="utf-8", errors="backslashreplace")
        self._console = Console(file=self._stream, highlight=False, markup=False)
        self._bar = Bar(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=self._console,
            disable=not self._console.is_terminal,
            transient=True,
        )
        self._all = self._bar.add_task("steps", total=total)
        self._step = self._bar.add_task("", total=None, visible=False)
        self._experiment = ""

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()
        self._stream.close()

    def say(self, text: str) -> None:
        """Print a line above the bar."""
        self._console.print(printable(text), soft_wrap=True)

    def begin(self, experiment: str) -> None:
        """Name the experiment that the next events belong to."""
        self._experiment = experiment

    def note(self, event: StepEvent) -> None:
        """Show what happened to a step."""
        if event.kind == "started":
            self._bar.update(
                self._step, description=f"{self._experiment} {event.step}", total=1, completed=0, visible=True
            )
            return
        self._bar.advance(self._all)
        message = f": {event.message}" if event.message else ""
        self.say(f"{self._experiment}  {event.step:<22}{_WORDS[event.kind]}{message}")

    def progress(self, progress: Progress) -> None:
        """Show how far a step is."""
        label = f"{self._experiment} {progress.step} {progress.label}"
        self._bar.update(self._step, description=label, total=progress.total, completed=progress.done)

    def finish(self, outcome: RunOutcome) -> None:
        """Sum an experiment up."""
        self._bar.update(self._step, visible=False)
        self._bar.advance(self._all, len(outcome.untried))
        counts = {
            "made": outcome.made,
            "stand": outcome.standing,
            "failed": outcome.failed,
            "not tried": outcome.untried,
        }
        counted = ", ".join(f"{len(steps)} {word}" for word, steps in counts.items() if steps)
        self.say(f"{outcome.experiment or 'cohort'}: {counted or 'nothing to do'} in {outcome.seconds:.1f} s")
