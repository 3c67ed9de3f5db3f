"""Rules: from facts to a plan - which steps of an experiment are stale, exactly why, and what a run must cover.

Pure functions over facts (`facts.py`), the pipeline and the callers' wishes. A run compares again once it has locked
the step (`engine/locked_step.py`), so that a plan that is overtaken by events costs a look and no wrong result.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import replace
from typing import Any, Final, Literal

from morphseq_dagster.engine.contract.step import StepSpec, make_key
from morphseq_dagster.engine.pipeline import Pipeline
from morphseq_dagster.engine.planner.causes import WEIGHTS, Cause
from morphseq_dagster.engine.planner.facts import ExperimentFacts, StepFacts
from morphseq_dagster.engine.planner.step_plans import ExperimentPlan, Freshness, StepPlan
from morphseq_dagster.engine.requests import artifact_input
from morphseq_dagster.engine.storage.hashing import hash_bytes, hash_json
from morphseq_dagster.engine.storage.records import MAX_WELL_TRIES, InputRead, Record

BRAKE: Final = 3
"""Failures of one step of one experiment with the same request after which automation leaves it to a person."""
BRAKE_PERMANENT: Final = 1
"""The same where the error says that trying again cannot help."""
_KEY_LENGTH: Final = 16
_STANDING: Final = ("as recorded", "unproven")


def plan_experiment(
    facts: ExperimentFacts,
    *,
    pipeline: Pipeline,
    steps: AbstractSet[str] | None = None,
    forced: AbstractSet[str] = frozenset(),
    busy: str = "",
) -> ExperimentPlan:
    """Plan one experiment.

    Parameters
    ----------
    facts
        What was read.
    pipeline
        Steps and their order.
    steps
        Steps to consider, with every step its ancestors; all when None.
    forced
        Steps to run whatever the records say.
    busy
        Who works on the experiment, known to whoever launches: a queued or running run.
    """
    verdicts: dict[str, StepPlan] = {}
    specs = [spec for spec in pipeline.steps if steps is None or spec.name in steps]
    for spec in specs:
        if spec.name in facts.steps:
            verdicts[spec.name] = _judge(spec, facts=facts, before=verdicts, forced=spec.name in forced)
    _rebuild_pruned(verdicts, specs=specs)
    working = [f.lock.holder() for f in facts.steps.values() if f.lock is not None and not f.lock_is_dead]
    automatic = _automatic(verdicts, specs=specs)
    return ExperimentPlan(
        experiment=facts.experiment,
        verdicts=tuple(verdicts.values()),
        busy=busy or "; ".join(dict.fromkeys(working)),
        problem=f"recipe: {facts.recipe_problem}" if facts.recipe_problem else "",
        automatic=automatic,
        run_key=_run_key(facts, verdicts=verdicts, specs=specs, steps=automatic) if automatic else "",
    )


def _judge(spec: StepSpec, *, facts: ExperimentFacts, before: Mapping[str, StepPlan], forced: bool) -> StepPlan:
    """Judge one step after those before it."""
    own = facts.steps[spec.name]
    record = own.record
    seconds = record.seconds if record is not None and record.origin != "adopted" else None
    if facts.recipe_problem:
        cause = Cause("unreadable", "recipe", detail=facts.recipe_problem, computes=False)
        return StepPlan(spec.name, (cause,), "stale", runs=True, held=cause.describe(), seconds=seconds)
    ahead = [name for name in spec.inputs if before[name].runs]
    inputs, absent = _inputs(spec, facts=facts)
    differences = [*_compare(spec, own=own, inputs=inputs, ahead=ahead), *_missing_inputs(own, absent=absent)]
    # What comes before will be made again: no key is known until then.
    key = None if ahead else _key(spec, own=own, inputs=inputs, experiment=facts.experiment)
    if record is not None and record.origin == "external_edit" and own.artifact in _STANDING and not forced:
        detail = "; ".join(c.describe() for c in differences)
        return StepPlan(spec.name, (Cause("kept", detail=detail),), "kept", seconds=seconds)
    if record is not None and key and record.request_key != key and not differences and own.artifact != "discarded":
        differences.append(Cause("key", old=record.request_key, new=key))
    causes = [*_of_claim(own), *_of_unreadable(own)]
    if forced:
        causes.append(Cause("forced"))
    if record is None and not own.unreadable:
        causes.append(_missing(own))
    causes += differences
    causes += _of_output(own)
    causes += _of_wells(record)
    causes += _of_failure(own, key=key, causes=causes)
    # Without its input a published result can neither be refuted nor made again: it stands, and the cause is named.
    stale = any(c.kind not in ("running", "waiting") for c in causes)
    # What was cut off while it was published may be the very result that is asked for.
    certain = any(c.computes for c in causes) and not (own.unreadable or own.refused or own.interrupted)
    if ahead:
        causes.append(Cause("upstream", ", ".join(ahead), computes=False))
    if not causes:
        return StepPlan(spec.name, (), "pruned" if own.artifact == "pruned" else "fresh", seconds=seconds)
    runs = stale or bool(ahead)
    freshness: Freshness = "stale" if runs else "pruned" if own.artifact == "pruned" else "fresh"
    return StepPlan(spec.name, tuple(causes), freshness, runs, certain, _hold(causes, own=own), seconds)


def _inputs(spec: StepSpec, *, facts: ExperimentFacts) -> tuple[dict[str, InputRead], list[str]]:
    """Inputs of the request that the step would run with now, and the artifacts that have no record."""
    found: dict[str, InputRead] = {}
    absent = []
    for name in spec.inputs:
        record = facts.steps[name].record
        if record is None:
            absent.append(name)
        else:
            found[name] = artifact_input(name, record=record)
    found |= {entry.name: entry for entry in facts.steps[spec.name].externals}
    return found, absent


def _compare(spec: StepSpec, *, own: StepFacts, inputs: Mapping[str, InputRead], ahead: Sequence[str]) -> list[Cause]:
    """Name everything in which the record differs from the request; nothing without a record."""
    record = own.record
    if record is None:
        return []
    causes = []
    if record.step_version != spec.version:
        causes.append(Cause("code", spec.name, record.step_version, spec.version))
    causes += [Cause("recipe", name, old, new) for name, old, new in compare_values(record.recipe, own.recipe)]
    known = {entry.name: entry for entry in record.inputs}
    expected = {*spec.inputs, *(external.name for external in spec.wanted_externals(own.recipe))}
    for name in sorted({*known, *expected}):
        if name in own.refused or (name in expected and name not in inputs):
            continue  # not known now: a cause of its own
        old = known[name].sha256 if name in known else None
        new = inputs[name].sha256 if name in inputs else None
        if old != new or (name in known) != (name in inputs):
            kind: Literal["weights", "data"] = "weights" if name.endswith(WEIGHTS) else "data"
            # What comes before will be made again and may turn out as it was.
            causes.append(Cause(kind, name, old, new, computes=name not in ahead))
    if record.output.path != own.output:
        causes.append(Cause("data", "output", record.output.path, own.output))
    return causes


def compare_values(old: Mapping[str, Any], new: Mapping[str, Any], *, prefix: str = "") -> list[tuple[str, Any, Any]]:
    """Name, old and new value of every parameter that differs, sections looked into.

    The table of a choice (of a backend) comes and goes with the choice, which is named; it is not listed beside it.
    """
    found: list[tuple[str, Any, Any]] = []
    if old == new:
        return found
    choices = {value for value in (*old.values(), *new.values()) if isinstance(value, str)}
    for name in sorted({*old, *new}):
        left, right = old.get(name), new.get(name)
        if (name in old) != (name in new) and name in choices and isinstance(left or right, Mapping):
            continue
        if isinstance(left, Mapping) and isinstance(right, Mapping):
            found += compare_values(left, right, prefix=f"{prefix}{name}.")
        elif left != right or (name in old) != (name in new):
            found.append((f"{prefix}{name}", left, right))
    return found


def _key(spec: StepSpec, *, own: StepFacts, inputs: Mapping[str, InputRead], experiment: str) -> str:
    """Key of the request that the step would run with now; empty when it cannot be made."""
    order = [*spec.inputs, *(external.name for external in spec.wanted_externals(own.recipe))]
    if any(name not in inputs for name in order):
        return ""
    return make_key(
        experiment=experiment,
        step=spec.name,
        version=spec.version,
        recipe=own.recipe_json,
        inputs={name: inputs[name].sha256 for name in order},
        output=own.output,
    )


def _missing(own: StepFacts) -> Cause:
    if own.orphan:
        return Cause("missing", own.output, detail=f"{own.orphan} is there without its record")
    if own.lock is not None and own.lock_is_dead:
        return Cause("missing", own.output, detail=f"{own.lock.holder()} is gone; the next run takes over")
    return Cause("missing", own.output)


def _missing_inputs(own: StepFacts, *, absent: Sequence[str]) -> list[Cause]:
    causes = [Cause("waiting", name, detail=reason, computes=False) for name, reason in own.refused.items()]
    if own.record is not None:
        # Its own input was lost with its record; that step runs, and this one looks again then.
        causes += [Cause("data", name, old="recorded", new=None, computes=False) for name in absent]
    return causes


def _of_claim(own: StepFacts) -> list[Cause]:
    if own.lock is not None and not own.lock_is_dead:
        return [Cause("running", detail=own.lock.holder(), computes=False)]
    if own.interrupted:
        return [Cause("interrupted", detail="its publication was cut off; the next run finishes it", computes=False)]
    return []


def _of_unreadable(own: StepFacts) -> list[Cause]:
    return [Cause("unreadable", path, detail=reason, computes=False) for path, reason in own.unreadable]


def _of_output(own: StepFacts) -> list[Cause]:
    if own.artifact == "missing":
        return [Cause("file_missing", own.output)]
    if own.artifact == "discarded":
        return [Cause("discarded", own.output)]
    if own.artifact == "changed":
        return [Cause("file_changed", own.output)]
    return []


def _of_wells(record: Record | None) -> list[Cause]:
    if record is None:
        return []
    again = {w: s for w, s in record.wells.items() if s.transient and s.tries < MAX_WELL_TRIES}
    if not again:
        return []
    return [Cause("degraded", ", ".join(sorted(again)), tries=max(s.tries for s in again.values()))]


def _of_failure(own: StepFacts, *, key: str | None, causes: Sequence[Cause]) -> list[Cause]:
    """Take the last failure for a cause if the step would be asked for the same again."""
    failure = own.failure
    if failure is None or key is None:
        return []
    unmade = failure.request_key == "" and (key == "" or any(c.kind == "missing" for c in causes))
    if failure.request_key != key and not unmade:
        return []
    return [Cause("failed", detail=failure.error.message, new=failure.error.kind, tries=failure.tries, computes=False)]


def _hold(causes: Sequence[Cause], *, own: StepFacts) -> str:
    """Say why automation leaves a step to a person."""
    for cause in causes:
        if cause.kind in ("unreadable", "waiting"):
            return cause.describe()
        if cause.kind == "missing" and own.orphan and own.lock is None and not own.interrupted:
            return f"{cause.describe()}: `morphseq adopt` gives it one, `morphseq reconcile --discard` puts it aside"
        if cause.kind == "file_changed":
            return f"{cause.describe()}: `morphseq reconcile` keeps or discards the edit"
        if cause.kind == "failed" and own.failure is not None and own.failure.request_key:
            limit = BRAKE_PERMANENT if cause.new == "permanent" else BRAKE
            if cause.tries >= limit:
                return f"failed {cause.tries} times in the same way and is left to you: {cause.detail}"
    return ""


def _rebuild_pruned(verdicts: dict[str, StepPlan], *, specs: Sequence[StepSpec]) -> None:
    """Let pruned steps run whose bytes a step after them needs."""
    for spec in reversed(specs):
        verdict = verdicts[spec.name]
        if verdict.freshness != "pruned" or verdict.runs:
            continue
        needing = [s.name for s in specs if spec.name in s.inputs and verdicts[s.name].runs]
        if needing:
            certain = any(verdicts[name].certain for name in needing)
            cause = Cause("pruned", ", ".join(needing), computes=certain)
            verdicts[spec.name] = replace(verdict, causes=(*verdict.causes, cause), runs=True, certain=certain)


def _automatic(verdicts: Mapping[str, StepPlan], *, specs: Sequence[StepSpec]) -> tuple[str, ...]:
    stopped: set[str] = set()
    for spec in specs:
        if verdicts[spec.name].held or stopped & set(spec.inputs):
            stopped.add(spec.name)
    return tuple(s.name for s in specs if verdicts[s.name].runs and s.name not in stopped)


def _run_key(
    facts: ExperimentFacts, *, verdicts: Mapping[str, StepPlan], specs: Sequence[StepSpec], steps: Sequence[str]
) -> str:
    """Name a launch by its reasons and by all that the steps would be asked with.

    The latter counts for steps without a record, whose only reason is that they are missing. Failures do not count: one
    more of them is no reason to try again.
    """
    reasons = [
        [step, cause.kind, cause.subject, cause.old, cause.new]
        for step in steps
        for cause in verdicts[step].causes
        if cause.kind not in ("failed", "running", "upstream")
    ]
    asked = [
        [
            spec.name,
            spec.version,
            hash_bytes(facts.steps[spec.name].recipe_json),
            [[entry.name, entry.sha256] for entry in facts.steps[spec.name].externals],
        ]
        for spec in specs
        if spec.name in steps
    ]
    versions = {name: f.record.data_version for name, f in facts.steps.items() if f.record is not None}
    return f"stale:{facts.experiment}:{hash_json([reasons, asked, versions])[:_KEY_LENGTH]}"
