"""The step contract: a small frozen request goes in, a staged result comes out, wherever the step runs.

Holds request, result and the specification of a step. Does not hold the steps themselves or where they run (`places`).
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from morphseq_dagster.engine.layout import Artifact, Layout
from morphseq_dagster.engine.storage.hashing import canonical_json, hash_bytes, hash_json
from morphseq_dagster.engine.storage.records import InputRead
from morphseq_dagster.engine.storage.staging import Staged
from morphseq_dagster.parameters import Parameters

REQUEST_SCHEMA = 1


class StepRequest(BaseModel):
    """What a step needs to run anywhere: small, frozen, JSON.

    Parameters
    ----------
    experiment, step, version
        What to do, by which version of the code.
    recipe
        The step's resolved recipe slice.
    inputs
        Artifacts and registered files to read, each with the hash that it must have.
    output
        Path of the primary output relative to the data root.
    data_root
        Absolute path of the data root where the step runs; not part of the key.
    run_id
        Run on whose behalf; not part of the key.
    force
        Whether finished wells must be computed again; not part of the key.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: int = REQUEST_SCHEMA
    experiment: str
    step: str
    version: int
    recipe: dict[str, Any]
    inputs: tuple[InputRead, ...]
    output: str
    data_root: str
    run_id: str = ""
    force: bool = False

    @property
    def recipe_hash(self) -> str:
        """Hash of the recipe slice."""
        return hash_json(self.recipe)

    @property
    def key(self) -> str:
        """What the result depends on: equal keys mean equal bytes, at every place and below every data root."""
        return make_key(
            experiment=self.experiment,
            step=self.step,
            version=self.version,
            recipe=canonical_json(self.recipe),
            inputs={entry.name: entry.sha256 for entry in self.inputs},
            output=self.output,
        )

    def layout(self, artifacts: tuple[Artifact, ...] | None = None) -> Layout:
        """Paths below the request's data root."""
        root = Path(self.data_root)
        return Layout(root) if artifacts is None else Layout(root, artifacts)


def make_key(
    *, experiment: str, step: str, version: int, recipe: bytes, inputs: Mapping[str, str | None], output: str
) -> str:
    """Key of a request: the hash of its parts as canonical JSON.

    The recipe comes encoded already: who compares thousands of steps encodes each slice once.
    """
    head = canonical_json({"experiment": experiment, "inputs": inputs, "output": output})
    tail = canonical_json({"step": step, "version": version})
    return hash_bytes(b"".join((head[:-1], b',"recipe":', recipe, b",", tail[1:])))


@dataclass(frozen=True)
class StepResult:
    """What a step made: the staged artifact."""

    staged: Staged


@dataclass(frozen=True)
class ExternalInput:
    """A registered input that a microscope or a person supplies.

    Parameters
    ----------
    name
        Logical name.
    locate
        Finds the file of an experiment; None when it is absent.
    digest
        Hashes what was found; the file's content unless said otherwise.
    required
        Whether the step cannot run without it.
    wanted
        Whether a recipe slice asks for it; always when None. What is not wanted is no input at all: it stands in no
        request and in no key.
    weights
        Name in the machine's section `weights` that says where it lies; `locate` is not asked then.
    """

    name: str
    locate: Callable[[Layout, str], Path | None]
    required: bool = False
    digest: Callable[[Layout, Path], str] | None = None
    wanted: Callable[[Mapping[str, Any]], bool] | None = None
    weights: str = ""


Pool = Literal["cpu", "gpu"]


@dataclass(frozen=True)
class StepSpec:
    """One step of the registry; the asset of the same name is made from it.

    Parameters
    ----------
    name
        Name of step, asset and artifact.
    version
        Raised whenever the code's results change, and only then.
    body
        `module:function` of the body, imported when the step runs.
    inputs
        Artifacts read.
    externals
        Registered files read.
    recipe
        Class of the step's recipe slice.
    group, stage, description, kinds, pool
        What people see: stage in the lab's words (build01 ...), sentence, technology badges, concurrency pool.
    variant
        Name that distinguishes outputs of one experiment side by side (the latent model), from the recipe slice.
    """

    name: str
    version: int
    body: str
    inputs: tuple[str, ...]
    description: str
    group: str
    stage: str = ""
    externals: tuple[ExternalInput, ...] = ()
    recipe: type[Parameters] = Parameters
    kinds: frozenset[str] = frozenset()
    pool: Pool = "cpu"
    variant: Callable[[dict[str, Any]], str] | None = None
    tags: dict[str, str] = field(default_factory=dict)

    def wanted_externals(self, recipe: Mapping[str, Any]) -> tuple[ExternalInput, ...]:
        """Registered files that the step reads under a recipe slice."""
        return tuple(e for e in self.externals if e.wanted is None or e.wanted(recipe))

    def load(self) -> Callable[[StepRequest], StepResult]:
        """Import the body."""
        module, _, function = self.body.partition(":")
        body: Callable[[StepRequest], StepResult] = getattr(importlib.import_module(module), function)
        return body


@dataclass(frozen=True)
class Registry:
    """All steps of one code location and the artifacts they make, in an order in which they can run."""

    steps: tuple[StepSpec, ...]
    artifacts: tuple[Artifact, ...]

    def __post_init__(self) -> None:
        """Refuse a registry that names an unknown input, runs backwards or has two steps of one name."""
        seen: set[str] = set()
        for spec in self.steps:
            if missing := set(spec.inputs) - seen:
                raise ValueError(f"step {spec.name} reads {sorted(missing)}, which no earlier step makes")
            if spec.name in seen:
                raise ValueError(f"step {spec.name} stands twice in the registry")
            if spec.name not in {a.name for a in self.artifacts}:
                raise ValueError(f"step {spec.name} has no artifact in the layout")
            seen.add(spec.name)

    def spec(self, name: str) -> StepSpec:
        """Look a step up by name."""
        for spec in self.steps:
            if spec.name == name:
                return spec
        raise KeyError(name)

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

    def layout(self, data_root: Path) -> Layout:
        """Paths of this registry's artifacts below a data root."""
        return Layout(data_root, self.artifacts)
