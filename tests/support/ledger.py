"""Ledger: what must be true of a data root of the diamond pipeline, worked out without the code under test.

The steps are plain functions of words; per step the ledger keeps what it was made from, what it gave and what became of
it since. From that follow the steps that are stale, what a run computes and what they then hold. It reads no file and
imports nothing of planner, records or keys.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal

Content = Any
"""Value of an artifact, which equal bytes have in common: rows, pairs of well and text, numbers."""
Condition = Literal["whole", "broken", "pruned", "discarded"]
INPUTS: Final[Mapping[str, tuple[str, ...]]] = {
    "letters": (),
    "lengths": ("letters",),
    "mirrors": ("letters",),
    "summary": ("lengths",),
    "sentence": ("lengths", "mirrors"),
}
"""Steps in their order, each with the artifacts that it reads."""
ORDER: Final = tuple(INPUTS)


@dataclass(frozen=True)
class Made:
    """One artifact with its record.

    Parameters
    ----------
    asked
        What its record says that it was made from: version, parameters, content of the inputs.
    content
        What its record says that it holds.
    condition
        Whether that lies on the disk (`whole`), something else does (`broken`), or it is gone or given up by intent.
    kept
        Whether it is a declared edit by hand.
    """

    asked: tuple[Any, ...]
    content: Content
    condition: Condition = "whole"
    kept: bool = False


@dataclass
class Lab:
    """What belongs to all experiments: versions of the steps, the recipe, the weights."""

    versions: dict[str, int] = field(default_factory=lambda: dict.fromkeys(ORDER, 1))
    upper: bool = False
    weights: str | None = None


@dataclass
class Ledger:
    """One experiment.

    Parameters
    ----------
    lab
        What it shares with the others.
    words
        Its raw input, in the order of the lines.
    own_upper
        What its own recipe says; None leaves it to the lab's.
    made
        Artifacts that have a record, by step.
    """

    lab: Lab
    words: tuple[tuple[str, str], ...]
    own_upper: bool | None = None
    made: dict[str, Made] = field(default_factory=dict)

    @property
    def upper(self) -> bool:
        """What the resolved recipe says."""
        return self.lab.upper if self.own_upper is None else self.own_upper

    def ask(self, step: str) -> tuple[Any, ...]:
        """What the step would be made from now; an input without a record is None."""
        own: Mapping[str, tuple[Any, ...]] = {
            "letters": (self.words, self.upper),
            "mirrors": (self.lab.weights,),
        }
        inputs = tuple(self.made[name].content if name in self.made else None for name in INPUTS[step])
        return (self.lab.versions[step], *own.get(step, ()), *inputs)

    def compute(self, step: str) -> Content:
        """What the step gives now."""
        inputs = [self.made[name].content for name in INPUTS[step]]
        match step:
            case "letters":
                return tuple(sorted((well, word.upper() if self.upper else word) for well, word in self.words))
            case "lengths":
                total = sum(len(word) for _, word in inputs[0])
                return tuple((well, len(word), len(word) / total) for well, word in inputs[0])
            case "mirrors":
                return tuple((well, word, word[::-1] + (self.lab.weights or "")) for well, word in inputs[0])
            case "summary":
                return (len(inputs[0]), sum(letters for _, letters, _ in inputs[0]))
            case _:
                return (tuple(text for _, _, text in inputs[1]), sum(letters for _, letters, _ in inputs[0]))

    def closure(self) -> tuple[str, ...]:
        """Steps that a run must cover, in order."""
        found: set[str] = set()
        for step in ORDER:
            if not self._stands_by_hand(step) and (not self._answers(step) or found & set(INPUTS[step])):
                found.add(step)
        for step in reversed(ORDER):
            if self._is_pruned(step) and any(step in INPUTS[name] for name in found):
                found.add(step)
        return tuple(step for step in ORDER if step in found)

    def run(self, steps: Collection[str] = ORDER, *, force: bool = False) -> list[str]:
        """Run steps; tell which of them compute, and hold what they give from then on."""
        computed = []
        for step in (name for name in ORDER if name in steps):
            needed = self._is_pruned(step) and step in self.closure()
            if force or needed or not (self._answers(step) or self._stands_by_hand(step)):
                self.made[step] = Made(self.ask(step), self.compute(step))
                computed.append(step)
        return computed

    def set(self, step: str, **values: Any) -> None:  # noqa: ANN401 - fields of an artifact
        """Change what is known of an artifact."""
        self.made[step] = replace(self.made[step], **values)

    def lose(self, steps: Iterable[str]) -> None:
        """Forget records."""
        for step in steps:
            self.made.pop(step, None)

    def adopt(self, step: str, content: Content) -> None:
        """Take content for the step's result: its record then names everything as it is now."""
        self.made[step] = Made(self.ask(step), content)

    def is_whole(self, step: str) -> bool:
        """Whether the recorded content lies on the disk."""
        return step in self.made and self.made[step].condition == "whole"

    def _answers(self, step: str) -> bool:
        made = self.made.get(step)
        return made is not None and made.condition in ("whole", "pruned") and made.asked == self.ask(step)

    def _stands_by_hand(self, step: str) -> bool:
        return self.is_whole(step) and self.made[step].kept

    def _is_pruned(self, step: str) -> bool:
        return step in self.made and self.made[step].condition == "pruned"
