"""Floors of coverage: how much of which rooms a run of the whole suite must execute.

`make test COVERAGE=1` measures, as CI always does; `tests/conftest.py` asks for the figures when all tests have run.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Final

import coverage

_SCIENCE: Final = ("detection", "imaging", "latents", "morphometry", "plate", "quality", "segmentation")
FLOORS: Final = {
    "science": (95.0, tuple(f"morphseq_dagster/{room}/*" for room in _SCIENCE)),
    "engine": (95.0, ("morphseq_dagster/engine/*",)),
    "the package": (90.0, ("morphseq_dagster/*",)),
}


@dataclass(frozen=True)
class Covered:
    """Share of statements of some rooms that ran, and the least that must, in percent."""

    rooms: str
    percent: float
    floor: float

    @property
    def is_enough(self) -> bool:
        """Whether the floor is reached."""
        return self.percent >= self.floor

    def __str__(self) -> str:
        """One line for the end of a run."""
        return f"coverage of {self.rooms}: {self.percent:.1f} % (floor {self.floor:g} %)"


def read_coverage(data_file: str | None = None) -> list[Covered]:
    """Read what a finished run measured."""
    measured = coverage.Coverage() if data_file is None else coverage.Coverage(data_file=data_file)
    measured.load()
    found = []
    for rooms, (floor, patterns) in FLOORS.items():
        percent = measured.report(include=list(patterns), file=io.StringIO())
        found.append(Covered(rooms, percent, floor))
    return found
