"""Pipeline: the one object that a workflow gives to the engine.

It names steps, artifacts, the rule for keys, where keys come from, and what is final. MorphSeq's is
`morphseq/pipeline.py`; a pipeline opened on a data root is a `Workspace` (`engine/workspace.py`).
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal

from morphseq_dagster.engine.contract.step import StepSpec
from morphseq_dagster.engine.layout import Artifact, Layout
from morphseq_dagster.errors import PermanentError

SourceState = Literal["ready", "acquiring", "refused"]


@dataclass(frozen=True)
class KeyRule:
    """What may be the key of a partition, and how people call one.

    Parameters
    ----------
    refuse
        Says why a text cannot be a key; None when it can.
    noun
        What one key stands for, in messages and as the name of Dagster's partition set.
    example
        Keys as people may write them.
    remedy
        What to do about a wrong one.
    """

    refuse: Callable[[str], str | None]
    noun: str = "experiment"
    example: str = ""
    remedy: str = "correct the name"

    def check(self, key: str) -> str:
        """Return a key unchanged.

        Raises
        ------
        PermanentError
            When it is refused, with the reason: a key becomes part of paths.
        """
        reason = self.refuse(key)
        if reason is not None:
            raise PermanentError(
                expected=f"{'an' if self.noun[:1] in 'aeiou' else 'a'} {self.noun} such as {self.example}",
                found=reason,
                where=f"{self.noun} {key!r}",
                remedy=self.remedy,
            )
        return key


@dataclass(frozen=True)
class Source:
    """Where the input of one key lies, by its name alone.

    Parameters
    ----------
    name
        The key.
    kind
        What supplies it (the microscope); several joined by ", " when they share the key.
    path
        The folder or file; the first of several.
    reason
        Why the name or place is refused; empty when it is not.
    """

    name: str
    kind: str
    path: Path
    reason: str = ""


@dataclass(frozen=True)
class FoundSource:
    """A source as it is now.

    Parameters
    ----------
    name, kind
        See `Source`.
    state
        `ready` to be worked on, `acquiring` while files still arrive, `refused` with `reason`.
    reason
        Why it is in this state.
    ready_in_s
        Seconds until an acquiring one counts as ended if nothing more arrives; None when that is not a matter of time.
    files
        Number of files.
    newest
        Arrival of the newest file in seconds since 1970; None without files.
    fingerprint
        Digest of path, size and time of every file; empty when refused before listing.
    remarks
        What deserves a look without standing in the way.
    workbook
        The file that a person fills in beside it; None when there is none, or more than one candidate.
    """

    name: str
    kind: str
    state: SourceState
    reason: str = ""
    ready_in_s: float | None = None
    files: int = 0
    newest: float | None = None
    fingerprint: str = ""
    remarks: tuple[str, ...] = ()
    workbook: Path | None = None


@dataclass(frozen=True)
class Sources:
    """How a workflow finds what there is to work on.

    Parameters
    ----------
    find
        Lists the sources of a data root by name, without a look inside; sorted by name.
    inspect
        Looks into one and judges it; never raises for what is wrong inside.
    root
        Folder in which they lie, for messages.
    """

    find: Callable[[Layout], Sequence[Source]]
    inspect: Callable[[Layout, Source], FoundSource]
    root: Callable[[Layout], Path]

    def discover(self, layout: Layout) -> tuple[FoundSource, ...]:
        """Look into every source; sorted by name."""
        return tuple(self.inspect(layout, source) for source in self.find(layout))


@dataclass(frozen=True)
class Pipeline:
    """A workflow: its steps in an order in which they can run, its artifacts, and what the engine must know beside.

    Parameters
    ----------
    name
        Name for people and for the tags of runs.
    steps, artifacts
        Every step, and the artifact of the same name that it makes.
    keys
        Rule for the keys of partitions.
    sources
        How there is found what to work on; None where keys come from people alone.
    listing
        Artifact that lists the files of a source; empty when none does.
    final
        Artifact that ends the way of one key; empty when there is none.
    cohort
        Step that joins the final artifacts of all keys; None when there is none. It is not among `steps`: nothing
        launches it unasked.
    goals
        Name of what people ask for to the stages that it covers.

    Raises
    ------
    ValueError
        For a step that reads what no earlier step makes, that stands twice, or that makes no artifact.
    """

    name: str
    steps: tuple[StepSpec, ...]
    artifacts: tuple[Artifact, ...]
    keys: KeyRule
    sources: Sources | None = None
    listing: str = ""
    final: str = ""
    cohort: StepSpec | None = None
    goals: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse a pipeline that could not run."""
        made = {artifact.name for artifact in self.artifacts}
        seen: set[str] = set()
        for spec in self.steps:
            if missing := set(spec.inputs) - seen:
                raise ValueError(f"step {spec.name} reads {sorted(missing)}, which no earlier step makes")
            if spec.name in seen:
                raise ValueError(f"step {spec.name} stands twice in the pipeline {self.name}")
            seen.add(spec.name)
        wanted = seen | {name for name in (self.listing, self.final) if name}
        wanted |= {self.cohort.name} if self.cohort is not None else set()
        if missing := wanted - made:
            raise ValueError(f"the pipeline {self.name} has no artifact {sorted(missing)}")

    @cached_property
    def _by_name(self) -> dict[str, StepSpec]:
        return {spec.name: spec for spec in self.steps}

    def spec(self, name: str) -> StepSpec:
        """Look a step up by name, the cohort's included."""
        return self.cohort if self.cohort is not None and name == self.cohort.name else self._by_name[name]

    def is_cohort(self, spec: StepSpec) -> bool:
        """Whether a step is the one that joins the final artifacts of all keys."""
        return self.cohort is not None and spec.name == self.cohort.name

    @property
    def step_names(self) -> tuple[str, ...]:
        """Names of all steps, in order."""
        return tuple(self._by_name)

    def ancestors(self, names: set[str]) -> set[str]:
        """The named steps and all steps before them."""
        found = set(names)
        for spec in reversed(self.steps):
            if spec.name in found:
                found |= set(spec.inputs)
        return found

    def descendants(self, names: set[str]) -> set[str]:
        """The named steps and all steps after them."""
        found = set(names)
        for spec in self.steps:
            if found & set(spec.inputs):
                found.add(spec.name)
        return found

    def steps_of(self, goal: str) -> frozenset[str]:
        """Steps that a goal names, without those before them; empty when there is no such goal."""
        stages = self.goals.get(goal, ())
        return frozenset(spec.name for spec in self.steps if spec.stage in stages)

    def layout(self, data_root: Path) -> Layout:
        """Paths of this pipeline's artifacts below a data root."""
        return Layout(data_root, self.artifacts)

    def find_sources(self, layout: Layout) -> tuple[Source, ...]:
        """List the sources by name; none where keys come from people alone."""
        return tuple(self.sources.find(layout)) if self.sources is not None else ()


def load_pipeline(name: str) -> Pipeline:
    """Import a pipeline by `module:attribute`."""
    module, _, attribute = name.partition(":")
    pipeline: Pipeline = getattr(importlib.import_module(module), attribute)
    return pipeline
