"""Importer: go through experiments and steps in order, find what can be adopted, and adopt it when asked to.

It can be stopped and started again: what has a record that stands is passed over. `readers.py` converts, and
`registration.py` publishes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Literal

from morphseq_dagster.adopt.context import Context, Converted
from morphseq_dagster.adopt.conventions import MONOLITHS, Source, find_sources, list_named
from morphseq_dagster.adopt.native_files import take_own
from morphseq_dagster.adopt.readers import convert, piece_exists
from morphseq_dagster.adopt.registration import register
from morphseq_dagster.adopt.splitting import Split, split_once
from morphseq_dagster.engine.contract.recipe import Recipe
from morphseq_dagster.engine.contract.step import StepRequest, StepSpec
from morphseq_dagster.engine.layout import COHORT, Layout
from morphseq_dagster.engine.locked_step import finish, lock_step
from morphseq_dagster.engine.planner.inventory import list_artifacts
from morphseq_dagster.engine.requests import artifact_input, output_path, read_external
from morphseq_dagster.engine.storage.commit import roll_forward
from morphseq_dagster.engine.storage.hashing import hash_bytes
from morphseq_dagster.engine.storage.records import InputRead, OutputVerdict, Record, compare_output, read_record
from morphseq_dagster.engine.storage.step_locks import hold_lock
from morphseq_dagster.engine.workspace import Workspace
from morphseq_dagster.errors import MorphseqError

Action = Literal["recorded", "adopt", "make", "refused", "blocked"]

LIGHT: Final = frozenset(
    {
        "raw_manifest",
        "plate_metadata",
        "built_metadata",
        "experiment_metadata",
        "gdino_detections",
        "sam2_segmentations",
        "qc_masks",
    }
)
"""Steps that cost little and that older trees lack: made, so that what comes after them is not stale at once."""
_PATIENCE_S: Final = 30.0


@dataclass(frozen=True)
class ImportOutcome:
    """What was, or would be, done about one artifact.

    Parameters
    ----------
    experiment, step
        Whose.
    action
        `recorded` (stands already), `adopt`, `make` (a light step, run), `refused` (something is there and cannot be
        used), `blocked` (something before it is missing).
    detail
        Source and convention, or the reasons.
    done
        False in a dry run.
    warnings
        What the record says of it.
    """

    experiment: str
    step: str
    action: Action
    detail: str = ""
    done: bool = False
    warnings: tuple[str, ...] = ()


@dataclass
class Import:
    """Adoption of one tree.

    Parameters
    ----------
    workspace
        Data root and pipeline.
    root
        Root of the tree; the data root itself when it is adopted in place.
    apply
        Publish; otherwise only say what would be done.
    without_inputs
        Adopt although something before it is missing; it is stale as soon as that appears.
    """

    workspace: Workspace
    root: Path
    apply: bool = False
    without_inputs: bool = False
    splits: dict[str, tuple[Split, Path]] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        """Name the adoption after its start, as runs are."""
        self._run_id = f"adopt-{datetime.now(UTC).strftime('%Y%m%dT%H%M%SZ')}"

    @property
    def layout(self) -> Layout:
        """Paths of the data root."""
        return self.workspace.layout

    def split(self, *, on_file: Callable[[Path], None] | None = None) -> dict[str, tuple[Split, Path]]:
        """Cut the files of all experiments into pieces, those that were cut before left as they are."""
        for kind, relative in sorted(set(MONOLITHS.values())):
            path = self.root / relative
            if path.is_file() and kind not in self.splits:
                if on_file is not None:
                    on_file(path)
                self.splits[kind] = split_once(self.layout, path, kind=kind)
        return self.splits

    def run(self, experiments: Iterable[str]) -> Iterator[ImportOutcome]:
        """Go through experiments; yield an outcome per artifact of which anything is there."""
        self.split()
        for experiment in experiments:
            yield from self._experiment(experiment)

    def _experiment(self, experiment: str) -> Iterator[ImportOutcome]:
        try:
            recipe = self.workspace.recipe(experiment)
        except MorphseqError as error:
            yield ImportOutcome(experiment, "", "refused", str(error))
            return
        context = Context(self.layout, self.root, experiment)
        state = _State({}, set())
        specs = self.workspace.pipeline.steps
        wanted = {spec.name for spec in specs if self._sources(spec, experiment=experiment, recipe=recipe)}
        for spec in specs:
            # Looked up anew: publishing a folder puts files of other artifacts that lay in it aside.
            sources = self._sources(spec, experiment=experiment, recipe=recipe)
            outcome = self._step(spec, context=context, recipe=recipe, sources=sources, state=state)
            if outcome is not None:
                yield outcome
            elif spec.name in LIGHT and self.workspace.pipeline.descendants({spec.name}) & wanted:
                yield self._make(spec, context=context, recipe=recipe, state=state)

    def _sources(self, spec: StepSpec, *, experiment: str, recipe: Recipe) -> tuple[Source, ...]:
        variant = spec.variant(recipe.slice(spec.name)) if spec.variant is not None else ""
        primary = output_path(spec, layout=self.layout, experiment=experiment, recipe=recipe)
        found: tuple[Source, ...] = (Source(primary, "own"),) if primary.is_file() else ()
        for root in (self.root, self.layout.put_aside("")):
            found += find_sources(root, step=spec.name, experiment=experiment, variant=variant)
        kind = MONOLITHS.get(spec.name, ("", ""))[0]
        if kind in self.splits and piece_exists(self.splits[kind][1], experiment=experiment):
            found += (Source(self.root / MONOLITHS[spec.name][1], "monolith", self.splits[kind][1]),)
        return found

    def _step(
        self, spec: StepSpec, *, context: Context, recipe: Recipe, sources: tuple[Source, ...], state: _State
    ) -> ImportOutcome | None:
        """Decide about one artifact; None when nothing is there to adopt and a light step may be made."""
        name, experiment = spec.name, context.experiment
        primary = output_path(spec, layout=self.layout, experiment=experiment, recipe=recipe)
        try:
            record = read_record(self.layout, primary=primary)
        except MorphseqError:
            record = None  # a damaged record is replaced
        if record is not None and (record.condition == "pruned" or self._stands(record)):
            state.versions[name] = artifact_input(name, record=record)
            if record.condition == "published":
                context.ready[name] = primary.read_bytes()
            return ImportOutcome(experiment, name, "recorded", record.origin)
        if record is not None and primary.is_file():
            # What a record contradicts was changed by somebody: adopting it would declare that valid unasked.
            return ImportOutcome(experiment, name, "refused", _contradiction(record))
        if not sources:
            return None
        missing = [entry for entry in spec.inputs if entry not in state.versions and entry not in state.coming]
        if missing and not self.without_inputs:
            return ImportOutcome(experiment, name, "blocked", f"{', '.join(missing)} is not there")
        converted, reasons = self._first_good(context, step=name, primary=primary, sources=sources)
        if converted is None:
            return None if name in LIGHT else ImportOutcome(experiment, name, "refused", "; ".join(reasons))
        outcome = ImportOutcome(
            experiment,
            name,
            "adopt",
            f"{converted.convention}: {converted.source}",
            done=self.apply,
            warnings=(*converted.warnings, *(f"adopted without {entry}, which is not there" for entry in missing)),
        )
        return self._adopt(spec, context=context, recipe=recipe, converted=converted, state=state, outcome=outcome)

    def _adopt(
        self,
        spec: StepSpec,
        *,
        context: Context,
        recipe: Recipe,
        converted: Converted,
        state: _State,
        outcome: ImportOutcome,
    ) -> ImportOutcome:
        """Publish what was converted, or only remember it in a dry run."""
        name = spec.name
        version = InputRead(name=name, path="", sha256=converted.data_version or hash_bytes(converted.data))
        if self.apply:
            converted = replace(converted, warnings=outcome.warnings)
            try:
                made = self._register(spec, context=context, recipe=recipe, converted=converted, state=state)
            except (MorphseqError, OSError) as error:
                return ImportOutcome(context.experiment, name, "refused", str(error))
            version = artifact_input(name, record=made)
        context.ready[name] = converted.data
        state.versions[name] = version
        return outcome

    def _first_good(
        self, context: Context, *, step: str, primary: Path, sources: tuple[Source, ...]
    ) -> tuple[Converted | None, list[str]]:
        reasons = []
        for source in sources:
            try:
                if source.convention == "own":
                    return take_own(context, step=step, primary=primary), []
                kind = MONOLITHS[step][0] if source.piece is not None else ""
                sha256 = self.splits[kind][0].sha256 if kind else ""
                return convert(context, step=step, source=source, sha256=sha256), []
            except (MorphseqError, OSError) as error:
                found = error.found if isinstance(error, MorphseqError) else str(error)
                reasons.append(f"{source.convention} {source.path.name}: {found}")
        # At R13's place an older file is tried as ours first: why it is not ours helps nobody.
        older = [reason for reason in reasons if not reason.startswith("own ")]
        return None, older or reasons

    def _register(
        self, spec: StepSpec, *, context: Context, recipe: Recipe, converted: Converted, state: _State
    ) -> Record:
        layout, experiment = self.layout, context.experiment
        with hold_lock(layout.lock(spec.name, experiment=experiment), run_id=self._run_id, patience_s=_PATIENCE_S):
            roll_forward(layout, step=spec.name, experiment=experiment)
            inputs = [state.versions.get(name) or InputRead(name=name, path="", sha256=None) for name in spec.inputs]
            weights = self.workspace.weights
            for external in spec.wanted_externals(recipe.slice(spec.name)):
                try:
                    inputs.append(
                        read_external(external.name, spec=spec, layout=layout, experiment=experiment, weights=weights)
                    )
                except MorphseqError:
                    inputs.append(InputRead(name=external.name, path="", sha256=None))
            request = StepRequest(
                experiment=experiment,
                step=spec.name,
                version=spec.version,
                recipe=recipe.slice(spec.name),
                inputs=tuple(inputs),
                output=layout.relative(output_path(spec, layout=layout, experiment=experiment, recipe=recipe)),
                data_root=str(layout.data_root),
                run_id=self._run_id,
            )
            return register(layout, spec=spec, request=request, converted=converted)

    def _make(self, spec: StepSpec, *, context: Context, recipe: Recipe, state: _State) -> ImportOutcome:
        """Run a light step, or say that it would be run."""
        name, experiment = spec.name, context.experiment
        missing = [entry for entry in spec.inputs if entry not in state.versions and entry not in state.coming]
        if missing:
            return ImportOutcome(experiment, name, "blocked", f"{', '.join(missing)} is not there")
        try:
            for external in spec.wanted_externals(recipe.slice(spec.name)):
                weights = self.workspace.weights
                read_external(external.name, spec=spec, layout=self.layout, experiment=experiment, weights=weights)
        except MorphseqError as error:
            return ImportOutcome(experiment, name, "blocked", f"{error.expected}: {error.found}")
        if not self.apply:
            state.coming.add(name)
            return ImportOutcome(experiment, name, "make", "a light step that the tree lacks")
        try:
            # What lies there was looked at and cannot be adopted.
            with lock_step(
                spec, workspace=self.workspace, experiment=experiment, run_id=self._run_id, replace_untracked=True
            ) as step:
                record = step.cached
                if record is None:
                    record = finish(self.layout, outcome=step.run())
        except MorphseqError as error:
            return ImportOutcome(experiment, name, "refused", str(error))
        state.versions[name] = artifact_input(name, record=record)
        context.ready[name] = output_path(spec, layout=self.layout, experiment=experiment, recipe=recipe).read_bytes()
        return ImportOutcome(experiment, name, "make", done=True)

    def _stands(self, record: Record) -> bool:
        return record.condition == "published" and compare_output(self.layout, record=record) is (
            OutputVerdict.AS_RECORDED
        )


@dataclass
class _State:
    """Versions of what is recorded or converted, and steps that a dry run would make."""

    versions: dict[str, InputRead]
    coming: set[str]


def _contradiction(record: Record) -> str:
    """Say why a file is not taken although it is there."""
    if record.condition == "discarded":
        return f"{record.output.path} was discarded; its step makes it again"
    return f"{record.output.path} is not what its record says: `morphseq reconcile` keeps or discards the edit"


def find_experiments(adoption: Import, *, known: Iterable[str]) -> tuple[str, ...]:
    """Names of all experiments of which a tree or the data root holds anything; sorted.

    Parameters
    ----------
    adoption
        The tree, its files of all experiments cut already.
    known
        Names of the raw folders.
    """
    names = set(known) | set(list_named(adoption.root))
    names |= {entry.experiment for entry in list_artifacts(adoption.workspace) if entry.experiment != COHORT}
    for split, _ in adoption.splits.values():
        names |= set(split.entries)
    return tuple(sorted(names))
