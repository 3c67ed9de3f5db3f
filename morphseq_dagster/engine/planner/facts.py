"""Facts: everything that the planner needs to know of an experiment, read once, frozen.

Records, failures, locks, journals, outputs, registered inputs and the resolved recipe are read here and judged in
`rules.py`. What cannot be read is a fact of its own, with its reason.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any, Final, Literal, TypeVar

from pydantic import BaseModel, ValidationError

from morphseq_dagster.engine.contract.recipe import Recipe, load_recipe
from morphseq_dagster.engine.contract.step import ExternalInput, StepSpec
from morphseq_dagster.engine.layout import FAILURE_SUFFIX, RECORD_SUFFIX
from morphseq_dagster.engine.planner.scans import Scans
from morphseq_dagster.engine.requests import read_external
from morphseq_dagster.engine.storage.file_lists import digest_listing
from morphseq_dagster.engine.storage.hashing import canonical_json, hash_file, hash_json
from morphseq_dagster.engine.storage.records import (
    Failure,
    InputRead,
    Record,
    compare_output,
    look_at_output,
    read_failure,
    read_record,
)
from morphseq_dagster.engine.storage.step_locks import StepLock, holder_is_dead, read_lock
from morphseq_dagster.engine.storage.untracked_files import find_untracked
from morphseq_dagster.engine.storage.weights import fingerprint, hash_weights, measure, recall_hash
from morphseq_dagster.engine.workspace import Workspace
from morphseq_dagster.errors import MorphseqError

OutputFact = Literal["none", "as recorded", "missing", "changed", "unproven", "pruned", "discarded"]
_FEW: Final = 64
"""Files assumed in a folder that no record counts."""
_PICTURE_BYTES: Final = 2**18
"""Size assumed of a picture, for the budget only."""
_BLOCK: Final = 1 << 16
_FACTS: Final[Mapping[str | None, OutputFact]] = {
    "as recorded": "as recorded",
    "missing": "missing",
    "changed": "changed",
    None: "unproven",
}
_Model = TypeVar("_Model", bound=BaseModel)


@dataclass(frozen=True)
class StepFacts:
    """What is known of one step of one experiment.

    Parameters
    ----------
    step
        Name.
    output
        Primary output relative to the data root; empty when the recipe that names it cannot be resolved.
    recipe, recipe_json
        Resolved slice, and its canonical JSON.
    record
        Record of the published output; None without one.
    artifact
        How the output compares with its record: `none` (no record), `unproven` (size, time or inode differ and the
        content was not read), `pruned` (gone by intent), `discarded` (to be made again).
    orphan
        File at the artifact's place, relative to the data root, although there is no record; empty without one.
    failure
        Why the last attempt failed.
    lock, lock_is_dead
        Holder of the step, and whether it is proven gone.
    interrupted
        Whether a publication has begun and not ended.
    externals
        Registered inputs as they are now.
    refused
        Reason per registered input that cannot be used.
    unreadable
        File and reason of everything that could not be read.
    """

    step: str
    output: str = ""
    recipe: Mapping[str, Any] = field(default_factory=dict)
    recipe_json: bytes = b"{}"
    record: Record | None = None
    artifact: OutputFact = "none"
    orphan: str = ""
    failure: Failure | None = None
    lock: StepLock | None = None
    lock_is_dead: bool = False
    interrupted: bool = False
    externals: tuple[InputRead, ...] = ()
    refused: Mapping[str, str] = field(default_factory=dict)
    unreadable: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class ExperimentFacts:
    """What is known of one experiment: its steps in the pipeline's order, and what is wrong with its recipe."""

    experiment: str
    steps: Mapping[str, StepFacts]
    recipe_problem: str = ""
    origins: Mapping[str, str] = field(default_factory=dict)


def read_facts(
    workspace: Workspace,
    *,
    experiments: Iterable[str],
    scans: Scans | None = None,
    variants: Mapping[str, str] | None = None,
) -> Iterator[ExperimentFacts]:
    """Read the facts of experiments, one after the other, so that a thousand need no more memory than one.

    Parameters
    ----------
    workspace
        Data root and pipeline.
    experiments
        Names, in the order of the result.
    scans
        How raw folders and image sets are looked into; everything now when None.
    variants
        Variant per step (the latent model) to look at instead of the recipe's.
    """
    reader = _Reader(workspace, scans=scans or Scans(workspace.layout), variants=variants or {})
    for experiment in experiments:
        yield reader.read(experiment)


class _Reader:
    def __init__(self, workspace: Workspace, *, scans: Scans, variants: Mapping[str, str]) -> None:
        self._workspace = workspace
        self._layout = workspace.layout
        self._scans = scans
        self._variants = variants
        # Most experiments have no recipe of their own, and some inputs belong to the whole lab: once is enough.
        self._shared: Recipe | None = None
        self._slices: dict[str, tuple[dict[str, Any], bytes]] = {}
        self._hash = cache(hash_file)
        self._hash_weights = cache(self._look_at_weights)
        self._root = str(self._layout.data_root)
        self._templates = {s.name: self._layout.artifact(s.name).primary for s in workspace.pipeline.steps}
        self._locks = _names(self._layout.locks)
        self._journals = _names(self._layout.journals)
        self._own_recipes = _names(self._layout.recipes("default")[0].parent)

    def read(self, experiment: str) -> ExperimentFacts:
        recipe, problem = self._recipe(experiment)
        steps = {s.name: self._step(s, experiment=experiment, recipe=recipe) for s in self._workspace.pipeline.steps}
        return ExperimentFacts(experiment, steps, problem, recipe.origins if recipe is not None else {})

    def _recipe(self, experiment: str) -> tuple[Recipe | None, str]:
        try:
            if self._layout.recipes(experiment)[1].name in self._own_recipes:
                return self._workspace.recipe(experiment), ""
            if self._shared is None:
                sections = {spec.name: spec.recipe for spec in self._workspace.pipeline.steps}
                self._shared = load_recipe(self._layout.recipes("default")[:1], sections=sections)
            return self._shared, ""
        except (MorphseqError, OSError) as error:
            return None, describe(error)

    def _slice(self, spec: StepSpec, recipe: Recipe) -> tuple[dict[str, Any], bytes]:
        if recipe is self._shared and spec.name in self._slices:
            return self._slices[spec.name]
        values = recipe.slice(spec.name)
        if spec.name in self._variants:
            values = _with_variant(spec, values, variant=self._variants[spec.name])
        found = values, canonical_json(values)
        if recipe is self._shared:
            self._slices[spec.name] = found
        return found

    def _step(self, spec: StepSpec, *, experiment: str, recipe: Recipe | None) -> StepFacts:
        if recipe is None and spec.variant is not None and spec.name not in self._variants:
            return StepFacts(spec.name)
        values, recipe_json = self._slice(spec, recipe) if recipe is not None else ({}, b"{}")
        variant = self._variants.get(spec.name) or (spec.variant(values) if spec.variant is not None else "")
        output = self._templates[spec.name].format(exp=experiment, variant=variant)
        unreadable: list[tuple[str, str]] = []
        record = self._read(output, RECORD_SUFFIX, Record, unreadable)
        record = spec.translate(record) if record is not None else None
        failure = self._read(output, FAILURE_SUFFIX, Failure, unreadable)
        label = f"{experiment}.{spec.name}.json"
        lock = None
        if label in self._locks:
            try:
                lock = read_lock(self._layout.lock(spec.name, experiment=experiment))
            except (MorphseqError, OSError) as error:
                unreadable.append((f".morphseq/claims/{label}", describe(error)))
        artifact: OutputFact = "none"
        if record is not None:
            try:
                artifact = self._compare(record)
            except (MorphseqError, OSError) as error:
                artifact = "unproven"
                unreadable.append((record.output.path, describe(error)))
        externals, refused = self._externals(spec, experiment=experiment, record=record, recipe=values)
        return StepFacts(
            step=spec.name,
            output=output,
            recipe=values,
            recipe_json=recipe_json,
            record=record,
            artifact=artifact,
            orphan="" if record is not None or unreadable else self._find_untracked(spec.name, experiment, output),
            failure=failure,
            lock=lock,
            lock_is_dead=lock is not None and holder_is_dead(lock),
            interrupted=label in self._journals,
            externals=externals,
            refused=refused,
            unreadable=tuple(unreadable),
        )

    def _find_untracked(self, step: str, experiment: str, output: str) -> str:
        """Say what lies at an artifact's place without a record."""
        primary = self._layout.absolute(output)
        untracked = next(find_untracked(self._layout, step=step, experiment=experiment, primary=primary), None)
        return "" if untracked is None else self._layout.relative(untracked)

    def _read(self, output: str, suffix: str, model: type[_Model], unreadable: list[tuple[str, str]]) -> _Model | None:
        """Read a record beside an output; the reader of records names what cannot be understood."""
        name = f"{output}{suffix}"
        try:
            return model.model_validate_json(_read_quickly(f"{self._root}/{name}"))
        except FileNotFoundError:
            return None
        except ValidationError:
            try:
                read = read_record if suffix == RECORD_SUFFIX else read_failure
                read(self._layout, primary=self._layout.absolute(output))
                unreadable.append((name, "it changed while it was read"))
            except MorphseqError as error:
                unreadable.append((name, describe(error)))
        except OSError as error:
            unreadable.append((name, describe(error)))
        return None

    def _externals(
        self, spec: StepSpec, *, experiment: str, record: Record | None, recipe: Mapping[str, Any]
    ) -> tuple[tuple[InputRead, ...], dict[str, str]]:
        found, refused = [], {}
        for external in spec.wanted_externals(recipe):
            if external.weights and external.weights not in self._workspace.weights and record is not None:
                # Another machine has them: without, the result can neither be refuted nor made again.
                refused[external.name] = f"the settings of this machine name no weights `{external.weights}`"
                continue
            try:
                found.append(
                    read_external(
                        external.name,
                        spec=spec,
                        layout=self._layout,
                        experiment=experiment,
                        digest=lambda e, path: self._digest(e, path, record=record),
                        weights=self._workspace.weights,
                    )
                )
            except MorphseqError as error:
                refused[external.name] = f"{error.found} ({error.where})"
            except OSError as error:
                refused[external.name] = describe(error)
        return tuple(found), refused

    def _digest(self, external: ExternalInput, path: Path, *, record: Record | None) -> str:
        """Hash a registered input; a folder's listing comes from the last scan where that is fresh enough."""
        if external.weights:
            return self._hash_weights(path) or _recorded(external, record=record)
        take = external.digest
        if take is None:
            return self._hash(path)
        listing = self._scans.look(
            self._layout.relative(path),
            take=lambda: take(self._layout, path),
            beside=_name(record) if record is not None else "",
            expected_files=record.counts.get("raw_files", _FEW) if record is not None else _FEW,
        )
        if listing is not None:
            return listing.digest
        # Not looked into: assumed to be what the record saw, and named among the skipped.
        return _recorded(external, record=record)

    def _look_at_weights(self, path: Path) -> str | None:
        """Hash of weights from the cache, else read now; None where that is more than this call may read."""
        recalled = recall_hash(self._layout, path)
        if recalled is not None:
            return recalled
        return self._scans.check(
            str(path), fingerprint=fingerprint(path), size=measure(path), judge=lambda: hash_weights(path)
        )

    def _compare(self, record: Record) -> OutputFact:
        """Compare an output with its record: by size, time and inode first, by content on suspicion."""
        output = record.output
        if record.condition != "published":
            return record.condition
        files = record.counts.get("files", _FEW) if output.folders else 0

        def list_folders(folders: tuple[Path, ...]) -> str | None:
            take = partial(digest_listing, folders)
            listing = self._scans.look(output.path, take=take, beside=_name(record), expected_files=files)
            return None if listing is None else listing.digest

        found: str | None
        found, seen = look_at_output(self._layout, output, list_folders=list_folders)
        if found is None:  # read once per appearance
            found = self._scans.check(
                output.path,
                fingerprint=hash_json([seen, output.sha256, output.listing]),
                size=output.size + files * _PICTURE_BYTES,
                judge=lambda: compare_output(self._layout, record=record).value,
            )
        return _FACTS[found]


def _recorded(external: ExternalInput, *, record: Record | None) -> str:
    """Hash that a record saw of an input; empty when it saw none."""
    seen = [e.sha256 for e in record.inputs if e.name == external.name] if record is not None else []
    return (seen[0] if seen else None) or ""


def describe(error: Exception) -> str:
    """Say an error in one line."""
    return str(error) if isinstance(error, MorphseqError) else f"{type(error).__name__}: {error}"


def _with_variant(spec: StepSpec, values: dict[str, Any], *, variant: str) -> dict[str, Any]:
    """Set the parameter that names the variant, whichever it is."""
    for name, value in values.items():
        if isinstance(value, str) and spec.variant is not None:
            changed = {**values, name: variant}
            if spec.variant(changed) == variant:
                return changed
    return values


def _names(folder: Path) -> frozenset[str]:
    try:
        return frozenset(os.listdir(folder))  # noqa: PTH208 - names are wanted, not paths
    except FileNotFoundError:
        return frozenset()


def _read_quickly(path: str) -> bytes:
    """Read a small file in a quarter of the time that an open file object takes."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        blocks = [os.read(descriptor, _BLOCK)]
        while len(blocks[-1]) == _BLOCK:
            blocks.append(os.read(descriptor, _BLOCK))
    finally:
        os.close(descriptor)
    return b"".join(blocks)


def _name(record: Record) -> str:
    """Tell this record from others of the same output."""
    return f"{record.data_version} {record.request_key} {record.finished_at} {record.pid}"
