"""Plan: which steps of an experiment would run right now, in order, and why.

Holds the comparison of each step's request with its record. Reads only; the run itself decides again inside its claim.
"""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from morphseq_dagster.errors import MorphseqError
from morphseq_dagster.places.session import MAX_WELL_TRIES, find_answer
from morphseq_dagster.steps.contract import StepRequest, StepSpec
from morphseq_dagster.steps.workspace import Workspace
from morphseq_dagster.storage.commit import is_interrupted
from morphseq_dagster.storage.records import Record, compare_output, read_failure, read_record


@dataclass(frozen=True)
class Pending:
    """A step that would run.

    Parameters
    ----------
    step
        Name.
    reason
        Why.
    certain
        False when the step runs only if one before it gives other content than last time.
    """

    step: str
    reason: str
    certain: bool = True


def find_pending(
    workspace: Workspace, *, experiment: str, steps: AbstractSet[str], forced: AbstractSet[str] = frozenset()
) -> tuple[Pending, ...]:
    """Find the steps that would run, in order.

    Parameters
    ----------
    workspace
        Data root and registry.
    experiment
        Experiment id.
    steps
        Steps to consider; with every step its ancestors.
    forced
        Steps to run whatever the records say.

    Raises
    ------
    PermanentError
        When the experiment's recipe cannot be resolved.
    """
    pending: dict[str, Pending] = {}
    workspace.recipe(experiment)
    for spec in workspace.registry.steps:
        if spec.name not in steps:
            continue
        before = [name for name in spec.inputs if name in pending]
        if spec.name in forced:
            pending[spec.name] = Pending(spec.name, "forced")
        elif (reason := "" if before else _find_reason(workspace, spec, experiment=experiment)) or before:
            reason = reason or _describe_wait(workspace, spec, before=before, experiment=experiment)
            certain = not before or not reason.startswith("after")
            pending[spec.name] = Pending(spec.name, reason, certain)
    return tuple(pending.values())


def _find_reason(workspace: Workspace, spec: StepSpec, *, experiment: str) -> str:
    """Say why a step whose inputs are settled would run; empty when its record answers."""
    if is_interrupted(workspace.layout, step=spec.name, experiment=experiment):
        return "its publication was cut off"
    try:
        request = workspace.request(spec, experiment=experiment)
        primary = workspace.layout.absolute(request.output)
        failure = read_failure(workspace.layout, primary=primary)
        if failure is not None:
            return f"failed: {failure.error.message}"
        if find_answer(workspace.layout, request=request) is not None:
            return ""
        record = read_record(workspace.layout, primary=primary)
    except MorphseqError as error:
        return f"cannot run yet: {error.where}: {error.found}"
    return "missing" if record is None else _compare(workspace, record=record, request=request)


def _describe_wait(workspace: Workspace, spec: StepSpec, *, before: list[str], experiment: str) -> str:
    try:
        missing = read_record(workspace.layout, primary=workspace.output(spec.name, experiment=experiment)) is None
    except MorphseqError:
        missing = True
    return "missing" if missing else f"after {', '.join(before)}"


def _compare(workspace: Workspace, *, record: Record, request: StepRequest) -> str:
    """Name everything in which a record differs from a request."""
    reasons = []
    if record.step_version != request.version:
        reasons.append(f"version {record.step_version} -> {request.version}")
    names = sorted({*record.recipe, *request.recipe})
    changed = [name for name in names if record.recipe.get(name) != request.recipe.get(name)]
    reasons += [f"recipe {name}: {record.recipe.get(name)} -> {request.recipe.get(name)}" for name in changed]
    old = {entry.name: entry.sha256 for entry in record.inputs}
    new = {entry.name: entry.sha256 for entry in request.inputs}
    for name in sorted({*old, *new}):
        if old.get(name) != new.get(name):
            word = "appeared" if old.get(name) is None else "is gone" if new.get(name) is None else "changed"
            reasons.append(f"input {name} {word}")
    if not reasons and record.request_key != request.key:
        reasons.append("key differs")
    again = [w for w, state in record.wells.items() if state.transient and state.tries < MAX_WELL_TRIES]
    if again:
        reasons.append(f"wells to try again: {', '.join(sorted(again))}")
    return "; ".join(reasons) or f"output {compare_output(workspace.layout, record=record).value}"
