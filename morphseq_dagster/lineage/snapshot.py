"""Snapshot: the state of every artifact of every experiment, read from records, failures, claims and journals.

Holds reading only: not a byte is written, and what cannot be read is a state of its own with its reason. Does not
compare contents with recipes and inputs (`plan`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Final, Literal

from morphseq_dagster.errors import MorphseqError
from morphseq_dagster.layout import RECORD_SUFFIX, Layout
from morphseq_dagster.recipes.loading import Recipe, load_recipe
from morphseq_dagster.steps.contract import ExternalInput, StepSpec
from morphseq_dagster.steps.requests import output_path
from morphseq_dagster.steps.workspace import Workspace
from morphseq_dagster.storage.claims import Claim, holder_is_dead, read_claim
from morphseq_dagster.storage.records import Failure, Record, read_failure, read_record

CellState = Literal["ok", "missing", "failed", "error", "running", "degraded", "unavailable", "interrupted"]
_NAMED_WELLS: Final = 5


@dataclass(frozen=True)
class Cell:
    """State of one artifact.

    Parameters
    ----------
    step
        Step that makes it.
    state
        `ok`; `missing`; `failed` (the last attempt did); `error` (cannot be read, or is not what the record says);
        `running` (claimed); `degraded` (without some wells); `unavailable` (published as such); `interrupted` (a
        publication or attempt was cut off; the next run finishes it).
    reason
        Why, when it is not plainly ok or missing.
    rows
        Rows of a table, where the record counts them.
    finished_at
        When the artifact was made, ISO 8601; empty without a record.
    """

    step: str
    state: CellState
    reason: str = ""
    rows: int | None = None
    finished_at: str = ""


@dataclass(frozen=True)
class ExperimentSnapshot:
    """States of all artifacts of one experiment by step."""

    experiment: str
    cells: Mapping[str, Cell] = field(default_factory=dict)


def take_snapshot(
    workspace: Workspace, *, experiments: Iterable[str], variants: Mapping[str, str] | None = None
) -> tuple[ExperimentSnapshot, ...]:
    """Read the state of every step of the experiments.

    Parameters
    ----------
    workspace
        Data root and registry.
    experiments
        Names, in the order of the result.
    variants
        Variant per step (the latent model) to look at instead of the recipe's.
    """
    reader = _Reader(workspace, variants=variants or {})
    return tuple(reader.read(experiment) for experiment in experiments)


def find_recorded(workspace: Workspace) -> tuple[str, ...]:
    """Experiments of which some record exists, whether or not their raw folder is still there; sorted."""
    found: set[str] = set()
    for artifact in workspace.registry.artifacts:
        folder, _, name = artifact.primary.rpartition("/")
        before, mark, after = name.partition("{exp}")
        if "{" in folder or not mark:
            continue
        after += RECORD_SUFFIX
        parent = workspace.data_root / folder
        names = [path.name for path in parent.iterdir()] if parent.is_dir() else []
        found.update(
            name[len(before) : -len(after)] for name in names if name.startswith(before) and name.endswith(after)
        )
    return tuple(sorted(found))


class _Reader:
    def __init__(self, workspace: Workspace, *, variants: Mapping[str, str]) -> None:
        self._workspace = workspace
        self._layout = workspace.layout
        self._variants = variants
        # Most experiments have no recipe of their own: the lab's is resolved once.
        self._lab_recipe = cache(self._resolve_lab_recipe)

    def read(self, experiment: str) -> ExperimentSnapshot:
        recipe, problem = self._recipe(experiment)
        cells: dict[str, Cell] = {}
        for spec in self._workspace.registry.steps:
            if spec.variant is not None and spec.name not in self._variants and problem:
                cells[spec.name] = Cell(spec.name, "error", problem)
                continue
            cells[spec.name] = self._cell(spec, experiment=experiment, recipe=recipe, cells=cells)
        return ExperimentSnapshot(experiment, cells)

    def _resolve_lab_recipe(self) -> Recipe:
        sections = {spec.name: spec.recipe for spec in self._workspace.registry.steps}
        return load_recipe(self._layout.recipes("")[:1], sections=sections)

    def _recipe(self, experiment: str) -> tuple[Recipe, str]:
        """Resolve the recipe, and say what is wrong with it."""
        try:
            own = self._layout.recipes(experiment)[1]
            return (self._workspace.recipe(experiment) if own.exists() else self._lab_recipe()), ""
        except (MorphseqError, OSError) as error:
            return Recipe({}), f"recipe: {_say(error)}"

    def _cell(self, spec: StepSpec, *, experiment: str, recipe: Recipe, cells: Mapping[str, Cell]) -> Cell:
        try:
            primary = self._primary(spec, experiment=experiment, recipe=recipe)
            claim = read_claim(self._layout.claim(spec.name, experiment=experiment))
            journal = self._layout.journal(spec.name, experiment=experiment)
            if claim is not None and not holder_is_dead(claim):
                return Cell(spec.name, "running", claim.holder())
            if journal.exists():
                return Cell(spec.name, "interrupted", "its publication was cut off; the next run finishes it")
            record = read_record(self._layout, primary=primary)
            failure = read_failure(self._layout, primary=primary)
            if failure is not None:
                return Cell(spec.name, "failed", _failure_reason(failure))
            if record is None:
                return self._without_record(spec, primary=primary, claim=claim, experiment=experiment, cells=cells)
            return self._with_record(spec, record=record, primary=primary, experiment=experiment)
        except (MorphseqError, OSError) as error:
            return Cell(spec.name, "error", _say(error))

    def _primary(self, spec: StepSpec, *, experiment: str, recipe: Recipe) -> Path:
        variant = self._variants.get(spec.name)
        if variant is not None:
            return self._layout.primary(spec.name, experiment=experiment, variant=variant)
        return output_path(spec, layout=self._layout, experiment=experiment, recipe=recipe)

    def _without_record(
        self, spec: StepSpec, *, primary: Path, claim: Claim | None, experiment: str, cells: Mapping[str, Cell]
    ) -> Cell:
        if claim is not None:
            return Cell(spec.name, "interrupted", f"{claim.holder()} is gone; the next run takes over")
        if primary.exists():
            return Cell(spec.name, "error", f"{self._layout.relative(primary)} is there without its record")
        waiting = [name for name in spec.inputs if cells[name].state in ("missing", "failed", "error")]
        if waiting:
            return Cell(spec.name, "missing", f"waits for {', '.join(waiting)}")
        for external in spec.externals:
            if external.required and (reason := _refuse_input(external, layout=self._layout, experiment=experiment)):
                return Cell(spec.name, "missing", f"waits for the input {external.name}: {reason}")
        return Cell(spec.name, "missing")

    def _with_record(self, spec: StepSpec, *, record: Record, primary: Path, experiment: str) -> Cell:
        rows, when = record.counts.get("rows"), record.finished_at
        try:
            status = primary.stat()
        except FileNotFoundError:
            return Cell(spec.name, "missing", "there is a record, but the file is gone")
        gone = [folder for folder in record.output.folders if not self._layout.absolute(folder).is_dir()]
        if gone:
            return Cell(spec.name, "missing", f"there is a record, but {gone[0]} is gone")
        if status.st_size != record.output.size:
            found = f"{status.st_size} bytes where {record.output.size} were recorded: changed outside the pipeline"
            return Cell(spec.name, "error", found, rows, when)
        for name, variant in self._variants.items():
            wanted = self._layout.relative(self._layout.primary(name, experiment=experiment, variant=variant))
            used = [entry.path for entry in record.inputs if entry.name == name]
            if used and used != [wanted]:
                return Cell(spec.name, "missing", f"made from {used[0]}")
        failed = [f"{well}: {state.reason}" for well, state in sorted(record.wells.items()) if state.status == "failed"]
        if failed:
            more = f"; and {len(failed) - _NAMED_WELLS} more" if len(failed) > _NAMED_WELLS else ""
            reason = f"{len(failed)} of {len(record.wells)} wells failed: {'; '.join(failed[:_NAMED_WELLS])}{more}"
            return Cell(spec.name, "degraded", reason, rows, when)
        return Cell(spec.name, record.status, "; ".join(record.warnings), rows, when)


def _refuse_input(external: ExternalInput, *, layout: Layout, experiment: str) -> str:
    """Say why a registered input cannot be used; empty when it is there."""
    try:
        path = external.locate(layout, experiment)
    except MorphseqError as error:
        return error.found
    return "" if path is not None and path.exists() else "no such file"


def _failure_reason(failure: Failure) -> str:
    tries = f" (tried {failure.tries} times)" if failure.tries > 1 else ""
    return failure.error.message + tries


def _say(error: Exception) -> str:
    return str(error) if isinstance(error, MorphseqError) else f"{type(error).__name__}: {error}"
