"""Requests: from pipeline, recipe and records to the request that a step would run with right now.

Registered inputs, weights among them, are hashed here, and the records of artifacts are read. Whether a result answers
its request is decided in `locked_step.py` for a run, and by the planner (`planner/rules.py`) for a plan.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from morphseq_dagster.engine.cohort import read_manifest
from morphseq_dagster.engine.contract.recipe import Recipe
from morphseq_dagster.engine.contract.step import ExternalInput, StepRequest, StepSpec
from morphseq_dagster.engine.layout import COHORT, Layout
from morphseq_dagster.engine.pipeline import Pipeline
from morphseq_dagster.engine.storage.hashing import hash_file
from morphseq_dagster.engine.storage.records import InputRead, Record, read_record
from morphseq_dagster.engine.storage.weights import remember_hash
from morphseq_dagster.errors import PermanentError

NO_WEIGHTS: Mapping[str, Path] = {}
"""Of a machine whose settings name none."""


def output_path(spec: StepSpec, *, layout: Layout, experiment: str, recipe: Recipe) -> Path:
    """Primary output of a step under a recipe."""
    variant = spec.variant(recipe.slice(spec.name)) if spec.variant is not None else ""
    return layout.primary(spec.name, experiment=experiment, variant=variant)


def build_request(
    spec: StepSpec,
    *,
    pipeline: Pipeline,
    layout: Layout,
    experiment: str,
    recipe: Recipe,
    run_id: str = "",
    force: bool = False,
    weights: Mapping[str, Path] = NO_WEIGHTS,
) -> StepRequest:
    """Build the request of a step from what lies below the data root now, and the weights that it wants.

    Raises
    ------
    PermanentError
        When an input artifact has no record, or a required registered file or a named weights file is absent.
    """
    if pipeline.is_cohort(spec):
        return _build_cohort_request(spec, pipeline=pipeline, layout=layout, run_id=run_id, force=force)
    inputs = []
    for name in spec.inputs:
        primary = output_path(pipeline.spec(name), layout=layout, experiment=experiment, recipe=recipe)
        record = read_record(layout, primary=primary)
        if record is None:
            raise _missing_input(spec, name=name, primary=primary, experiment=experiment)
        inputs.append(artifact_input(name, record=record))
    wanted = spec.wanted_externals(recipe.slice(spec.name))
    inputs += [read_external(e.name, spec=spec, layout=layout, experiment=experiment, weights=weights) for e in wanted]
    return StepRequest(
        experiment=experiment,
        step=spec.name,
        version=spec.version,
        recipe=recipe.slice(spec.name),
        inputs=tuple(inputs),
        output=layout.relative(output_path(spec, layout=layout, experiment=experiment, recipe=recipe)),
        data_root=str(layout.data_root),
        run_id=run_id,
        force=force,
    )


def _build_cohort_request(
    spec: StepSpec, *, pipeline: Pipeline, layout: Layout, run_id: str, force: bool
) -> StepRequest:
    """Make the cohort's request: its inputs are the final artifacts of all keys."""
    manifest = read_manifest(pipeline, layout=layout)
    if not manifest.included:
        raise PermanentError(
            expected=f"at least one {pipeline.final}",
            found="none",
            where=str(layout.primary(pipeline.final, experiment="{exp}").parent),
            remedy="`morphseq pipeline` makes them",
        )
    return StepRequest(
        experiment=COHORT,
        step=spec.name,
        version=spec.version,
        recipe={},
        inputs=manifest.inputs(),
        output=layout.relative(layout.primary(spec.name, experiment=COHORT)),
        data_root=str(layout.data_root),
        run_id=run_id,
        force=force,
    )


def artifact_input(name: str, *, record: Record) -> InputRead:
    """Input entry of a recorded artifact: consumers compare data versions."""
    return InputRead(name=name, path=record.output.path, sha256=record.data_version)


def read_external(
    name: str,
    *,
    spec: StepSpec,
    layout: Layout,
    experiment: str,
    digest: Callable[[ExternalInput, Path], str] | None = None,
    weights: Mapping[str, Path] = NO_WEIGHTS,
) -> InputRead:
    """Hash a registered input as it is now; absent optional ones carry no hash.

    Parameters
    ----------
    name, spec, layout, experiment
        Which input.
    digest
        Hashes what was found, for callers that look at many; the input's own way unless given.
    weights
        Where weights lie on this machine, by name.

    Raises
    ------
    PermanentError
        When a required input or a named weights file is absent, or an input cannot be told from another.
    """
    external = next(e for e in spec.externals if e.name == name)
    if external.weights:
        return _read_weights(external, spec=spec, layout=layout, path=weights.get(external.weights), digest=digest)
    path = external.locate(layout, experiment)
    if path is None or not path.exists():
        if external.required:
            raise PermanentError(
                expected=f"the input {name} of step {spec.name}",
                found="no file",
                where=str(path) if path is not None else f"experiment {experiment}",
                remedy="supply the file, then run the step again",
            )
        return InputRead(name=name, path=layout.relative(path) if path is not None else "", sha256=None)
    if digest is not None:
        return InputRead(name=name, path=layout.relative(path), sha256=digest(external, path))
    sha256 = hash_file(path) if external.digest is None else external.digest(layout, path)
    return InputRead(name=name, path=layout.relative(path), sha256=sha256)


def _read_weights(
    external: ExternalInput,
    *,
    spec: StepSpec,
    layout: Layout,
    path: Path | None,
    digest: Callable[[ExternalInput, Path], str] | None,
) -> InputRead:
    """Hash the weights that a step wants; no hash where the machine names none, which the backend then refuses.

    Weights outside the data root stand in the request by their absolute path: the path is the machine's matter and in
    no key.
    """
    if path is None:
        return InputRead(name=external.name, path="", sha256=None)
    if not path.exists():
        raise PermanentError(
            expected=f"the weights {external.weights} that step {spec.name} is to use",
            found="no file",
            where=str(path),
            remedy=f"put it there, or correct `{external.weights}` in the section [weights] of morphseq.toml "
            "(MORPHSEQ_WEIGHTS); `morphseq doctor` looks at all weights",
        )
    sha256 = digest(external, path) if digest is not None else remember_hash(layout, path)
    inside = path.is_relative_to(layout.data_root)
    return InputRead(name=external.name, path=layout.relative(path) if inside else str(path), sha256=sha256)


def _missing_input(spec: StepSpec, *, name: str, primary: Path, experiment: str) -> PermanentError:
    lies = primary.exists()
    run = f"morphseq materialize --partition {experiment} --select '*{spec.name}'"
    return PermanentError(
        expected=f"the artifact {name} before step {spec.name}",
        found="the file without its record" if lies else "no such file",
        where=str(primary),
        remedy=f"morphseq adopt --experiments {experiment}" if lies else run,
    )
