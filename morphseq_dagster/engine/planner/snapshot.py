"""Snapshot: the state of every artifact of every experiment in one word and a reason, for people.

Facts (`facts.py`) and plans (`step_plans.py`) are turned into states; `status.py` makes a table of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

from morphseq_dagster.engine.contract.step import StepSpec
from morphseq_dagster.engine.layout import RECORD_SUFFIX
from morphseq_dagster.engine.planner.facts import ExperimentFacts, StepFacts, read_facts
from morphseq_dagster.engine.planner.rules import plan_experiment
from morphseq_dagster.engine.planner.scans import Scans
from morphseq_dagster.engine.planner.step_plans import ExperimentPlan, StepPlan
from morphseq_dagster.engine.storage.records import Failure, Record
from morphseq_dagster.engine.workspace import Workspace

StatusName = Literal[
    "ok", "missing", "stale", "failed", "error", "queued", "running", "degraded", "unavailable", "interrupted", "pruned"
]
_NAMED_WELLS: Final = 5


@dataclass(frozen=True)
class ArtifactStatus:
    """State of one artifact.

    Parameters
    ----------
    step
        Step that makes it.
    state
        `ok`; `missing`; `stale` (something that it was made from changed); `failed` (the last attempt did); `error`
        (cannot be read, or is not what the record says); `queued` (at a cluster, its job waits); `running` (locked,
        or its job works); `degraded` (without some wells);
        `unavailable` (published as such); `interrupted` (a publication or attempt was cut off; the next run finishes
        it); `pruned` (bytes removed on purpose).
    reason
        Why, when it is not plainly ok or missing.
    rows
        Rows of a table, where the record counts them.
    finished_at
        When the artifact was made, ISO 8601; empty without a record.
    job
        Number of the cluster job that is at it; empty without one.
    """

    step: str
    state: StatusName
    reason: str = ""
    rows: int | None = None
    finished_at: str = ""
    job: str = ""


@dataclass(frozen=True)
class RemoteWork:
    """How work on a step stands that goes on without a process here, as far as files show.

    Parameters
    ----------
    state
        `queued`; `running`; `ended` without a result and without anybody having taken note.
    job
        Its number at the cluster; empty as long as nobody knows it.
    detail
        State, reason or node, and how long ago that was known.
    """

    state: Literal["queued", "running", "ended"]
    job: str
    detail: str


@dataclass(frozen=True)
class ExperimentSnapshot:
    """States of all artifacts of one experiment by step, with the plan that they were read from."""

    experiment: str
    cells: Mapping[str, ArtifactStatus] = field(default_factory=dict)
    plan: ExperimentPlan | None = None


def take_snapshot(
    workspace: Workspace,
    *,
    experiments: Iterable[str],
    variants: Mapping[str, str] | None = None,
    scans: Scans | None = None,
    remote: Mapping[tuple[str, str], RemoteWork] | None = None,
) -> Iterator[ExperimentSnapshot]:
    """Yield the state of every step of the experiments, one after the other.

    Parameters
    ----------
    workspace
        Data root and pipeline.
    experiments
        Names, in the order of the result.
    variants
        Variant per step (the latent model) to look at instead of the recipe's.
    scans
        How raw folders and image sets are looked into; everything now when None.
    remote
        Work that goes on without a process here, by step and experiment.
    """
    jobs = remote or {}
    for facts in read_facts(workspace, experiments=experiments, scans=scans, variants=variants):
        plan = plan_experiment(facts, pipeline=workspace.pipeline)
        cells: dict[str, ArtifactStatus] = {}
        for spec in workspace.pipeline.steps:
            cell = _cell(spec, facts=facts, verdict=plan.verdict(spec.name), cells=cells)
            cell = _of_other_variant(facts, step=spec.name, variants=variants or {}) or cell
            cells[spec.name] = _of_job(facts.steps[spec.name], jobs.get((spec.name, facts.experiment))) or cell
        yield ExperimentSnapshot(facts.experiment, cells, plan)


def find_recorded(workspace: Workspace) -> tuple[str, ...]:
    """Experiments of which some record exists, whether or not their raw folder is still there; sorted."""
    found: set[str] = set()
    for artifact in workspace.pipeline.artifacts:
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


def _of_job(own: StepFacts, work: RemoteWork | None) -> ArtifactStatus | None:
    """State of a step with a cluster job; None where the job adds nothing."""
    if work is None or not own.output or own.unreadable:
        return None
    job = f"job {work.job}: {work.detail}" if work.job else f"a job: {work.detail}"
    if work.state != "ended":
        return ArtifactStatus(own.step, work.state, job, job=work.job)
    if own.lock is not None and not own.lock_is_dead:
        return None  # whoever waits for it is about to take note
    return ArtifactStatus(own.step, "interrupted", job, job=work.job)


def _of_other_variant(facts: ExperimentFacts, *, step: str, variants: Mapping[str, str]) -> ArtifactStatus | None:
    """A result made from another variant (latent model) than the one looked at is none for it."""
    record = facts.steps[step].record
    for entry in record.inputs if record is not None else ():
        if entry.name in variants and entry.path != facts.steps[entry.name].output:
            return ArtifactStatus(step, "missing", f"made from {entry.path}")
    return None


def _cell(
    spec: StepSpec, *, facts: ExperimentFacts, verdict: StepPlan, cells: Mapping[str, ArtifactStatus]
) -> ArtifactStatus:
    own, name = facts.steps[spec.name], spec.name
    unjudged = _unjudged(own, recipe_problem=facts.recipe_problem)
    if unjudged is not None:
        return unjudged
    if own.failure is not None and (own.record is None or any(c.kind == "failed" for c in verdict.causes)):
        return ArtifactStatus(name, "failed", _failure_reason(own.failure))
    if own.record is None:
        return _without_record(spec, own=own, cells=cells)
    damage = _damage(own, record=own.record)
    return damage or _with_record(own, record=own.record, verdict=verdict, is_known=not facts.recipe_problem)


def _unjudged(own: StepFacts, *, recipe_problem: str) -> ArtifactStatus | None:
    """State of what cannot be read or is being worked on; None for everything else."""
    if not own.output:
        return ArtifactStatus(own.step, "error", f"recipe: {recipe_problem}")
    if own.unreadable:
        return ArtifactStatus(own.step, "error", "; ".join(reason for _, reason in own.unreadable))
    if own.lock is not None and not own.lock_is_dead:
        return ArtifactStatus(own.step, "running", own.lock.holder())
    if own.interrupted:
        return ArtifactStatus(own.step, "interrupted", "its publication was cut off; the next run finishes it")
    return None


def _damage(own: StepFacts, *, record: Record) -> ArtifactStatus | None:
    """State of an output that is not what its record says; None when it is, or is gone by intent."""
    if own.artifact == "missing":
        return ArtifactStatus(own.step, "missing", f"there is a record, but {own.output} or a folder of it is gone")
    if own.artifact == "changed":
        reason = f"{own.output} was changed outside the pipeline: `morphseq reconcile` keeps or discards that"
        return ArtifactStatus(own.step, "error", reason, record.counts.get("rows"), record.finished_at)
    return None


def _without_record(spec: StepSpec, *, own: StepFacts, cells: Mapping[str, ArtifactStatus]) -> ArtifactStatus:
    if own.lock is not None:
        return ArtifactStatus(spec.name, "interrupted", f"{own.lock.holder()} is gone; the next run takes over")
    if own.orphan:
        return ArtifactStatus(spec.name, "error", f"{own.orphan} is there without its record")
    waiting = [name for name in spec.inputs if cells[name].state in ("missing", "failed", "error")]
    if waiting:
        return ArtifactStatus(spec.name, "missing", f"waits for {', '.join(waiting)}")
    for name, reason in own.refused.items():
        return ArtifactStatus(spec.name, "missing", f"waits for the input {name}: {reason}")
    return ArtifactStatus(spec.name, "missing")


def _with_record(own: StepFacts, *, record: Record, verdict: StepPlan, is_known: bool) -> ArtifactStatus:
    rows, when, step = record.counts.get("rows"), record.finished_at, own.step
    if verdict.runs and is_known:
        return ArtifactStatus(step, "stale", verdict.reason, rows, when)
    if own.artifact == "pruned":
        return ArtifactStatus(step, "pruned", "its bytes were removed to save space", rows, when)
    if verdict.causes:  # an edit that stands, an input that is gone
        return ArtifactStatus(step, record.status, verdict.reason, rows, when)
    failed = [f"{well}: {state.reason}" for well, state in sorted(record.wells.items()) if state.status == "failed"]
    if failed:
        more = f"; and {len(failed) - _NAMED_WELLS} more" if len(failed) > _NAMED_WELLS else ""
        reason = f"{len(failed)} of {len(record.wells)} wells failed: {'; '.join(failed[:_NAMED_WELLS])}{more}"
        return ArtifactStatus(step, "degraded", reason, rows, when)
    doubt = ["size, time or inode differ from the record: `morphseq reconcile` looks"] * (own.artifact == "unproven")
    return ArtifactStatus(step, record.status, "; ".join([*record.warnings, *doubt]), rows, when)


def _failure_reason(failure: Failure) -> str:
    tries = f" (tried {failure.tries} times)" if failure.tries > 1 else ""
    return failure.error.message + tries
