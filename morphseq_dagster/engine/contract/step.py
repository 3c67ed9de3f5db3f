"""The step contract: a small frozen request goes in, a staged result comes out, wherever the step runs.

What a body works with is the step context (`context.py`); steps become a pipeline in `engine/pipeline.py`; where they
run is the matter of executors (`engine/executors`).
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict

from morphseq_dagster.engine.layout import Layout
from morphseq_dagster.engine.storage.hashing import canonical_json, hash_bytes, hash_json
from morphseq_dagster.engine.storage.records import InputRead, Record
from morphseq_dagster.engine.storage.staging import Staged
from morphseq_dagster.parameters import Parameters

if TYPE_CHECKING:
    from morphseq_dagster.engine.contract.context import StepContext

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
        """What the result depends on: equal keys mean equal bytes, with every executor and below every data root."""
        return make_key(
            experiment=self.experiment,
            step=self.step,
            version=self.version,
            recipe=canonical_json(self.recipe),
            inputs={entry.name: entry.sha256 for entry in self.inputs},
            output=self.output,
        )


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
    """One step of the pipeline; the asset of the same name is made from it.

    Parameters
    ----------
    name
        Name of step, asset and artifact.
    version
        Raised whenever the code's results change, and only then.
    body
        `module:function` of the body, imported when the step runs. It takes the step context and returns the result.
    inputs
        Artifacts read.
    externals
        Registered files read.
    recipe
        Class of the step's recipe slice.
    group, stage, kinds, pool
        What people see: group of assets, stage that goals name, technology badges, concurrency pool.
    variant
        Name that distinguishes outputs of one experiment side by side (the latent model), from the recipe slice.
    carry_over
        Translates a record of an older form to the present one, where its result still stands; None where it does not.
    """

    name: str
    version: int
    body: str
    inputs: tuple[str, ...]
    group: str
    stage: str = ""
    externals: tuple[ExternalInput, ...] = ()
    recipe: type[Parameters] = Parameters
    kinds: frozenset[str] = frozenset()
    pool: Pool = "cpu"
    variant: Callable[[dict[str, Any]], str] | None = None
    carry_over: Callable[[Record], Record | None] | None = None

    def wanted_externals(self, recipe: Mapping[str, Any]) -> tuple[ExternalInput, ...]:
        """Registered files that the step reads under a recipe slice."""
        return tuple(e for e in self.externals if e.wanted is None or e.wanted(recipe))

    def translate(self, record: Record) -> Record:
        """Read a record as the present form of the step would have written it, where its result still stands."""
        translated = self.carry_over(record) if self.carry_over is not None else None
        return record if translated is None else translated

    def load(self) -> Callable[[StepContext], StepResult]:
        """Import the body."""
        module, _, function = self.body.partition(":")
        body: Callable[[StepContext], StepResult] = getattr(importlib.import_module(module), function)
        return body
