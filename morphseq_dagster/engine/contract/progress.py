"""Progress of long work: steps report it through their context, whoever runs them decides how it is shown."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Progress:
    """How far a step is: `done` of `total` units, and which unit was the last."""

    step: str
    done: int
    total: int
    label: str
