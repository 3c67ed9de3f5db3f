"""Wells: run a step's computation well by well, with checkpoints, reuse and isolation of failures.

Holds the loop that all per-well steps share, in this process or over the workers of a `crew`. An unchanged well is
taken from the published artifact, a finished one from its checkpoint; a failing well becomes a state with its reason,
and too many failing wells fail the step.
"""

from __future__ import annotations

import errno
import logging
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from morphseq_dagster.engine.contract.context import StepContext
from morphseq_dagster.engine.contract.crew import Crew, WellCall, current_crew, employ
from morphseq_dagster.engine.contract.progress import Progress
from morphseq_dagster.engine.contract.worker import current_service
from morphseq_dagster.engine.storage.checkpoints import WellPayload, load_checkpoint, save_checkpoint
from morphseq_dagster.engine.storage.hashing import hash_json
from morphseq_dagster.engine.storage.records import OutputVerdict, Record, WellState, compare_output, read_record
from morphseq_dagster.errors import ErrorReport, PermanentError, TransientError, report

_LOG = logging.getLogger(__name__)
# A full or failing disk is no property of a well: the step stops, and what is finished stays in its checkpoints.
_SURROUNDINGS = (
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EROFS,
    errno.EFBIG,
    errno.EIO,
    errno.ESTALE,
    errno.EMFILE,
    errno.ENFILE,
)


@dataclass(frozen=True)
class WellTask:
    """One well to compute.

    Parameters
    ----------
    well
        Name of the well.
    inputs
        JSON value that names everything the well's result depends on beside recipe and version (hashes of its
        pictures, say); enters the well's key.
    """

    well: str
    inputs: Any


@dataclass(frozen=True)
class WellRun:
    """Payloads of the wells that succeeded, states of all, and how many were computed rather than reused."""

    payloads: Mapping[str, WellPayload]
    states: Mapping[str, WellState]
    computed: int


def map_wells(
    context: StepContext,
    *,
    tasks: Sequence[WellTask],
    compute: Callable[[WellTask], WellPayload],
    restore: Callable[[WellTask], WellPayload | None],
    max_failed_share: float,
) -> WellRun:
    """Compute every well that is not finished already.

    Parameters
    ----------
    context
        The step's workbench.
    tasks
        Wells in the order of work.
    compute
        Computes one well.
    restore
        Takes one unchanged well from the published artifact; None when it is not in there.
    max_failed_share
        Share of failed wells above which the step fails.

    Raises
    ------
    PermanentError, TransientError
        When more wells failed than tolerated, naming each with its reason.
    """
    published = _published(context)
    keys = {task.well: _key(context, task) for task in tasks}
    payloads: dict[str, WellPayload] = {}
    states: dict[str, WellState] = {}

    def work(task: WellTask) -> WellPayload | WellState:
        try:
            return save_checkpoint(_folder(context, task), key=keys[task.well], payload=compute(task))
        except Exception as error:  # noqa: BLE001 - whatever a well raises becomes its recorded reason
            return _failed(error, context=context, task=task, key=keys[task.well], before=published)

    service = current_service()
    if service is not None:
        by_name = {task.well: task for task in tasks}
        service.serve(keys, work=lambda well: _state(work(by_name[well]), key=keys[well]))
    crew = current_crew()
    left: list[WellTask] = []
    computed = done = 0
    for task in tasks:
        key = keys[task.well]
        made: WellPayload | WellState | None = None
        if not context.request.force:
            made = _reuse(context, task, key=key, published=published, restore=restore)
        if made is None:
            computed += 1
            if crew is not None:
                left.append(task)
                continue
            made = work(task)
        states[task.well] = _state(made, key=key)
        if isinstance(made, WellPayload):
            payloads[task.well] = made
        done += 1
        context.progress(Progress(context.request.step, done, len(tasks), task.well))
    if crew is not None and left:
        states |= _share_out(context, left, crew=crew, keys=keys, total=len(tasks))
        payloads |= _collect(context, [task for task in left if states[task.well].status == "ok"], keys=keys)
        # Results stand in the order of the tasks, whoever made them and whenever.
        states = {task.well: states[task.well] for task in tasks}
        payloads = {task.well: payloads[task.well] for task in tasks if task.well in payloads}
    _refuse_too_many(context, states, max_failed_share=max_failed_share)
    return WellRun(payloads, states, computed)


def _share_out(
    context: StepContext, tasks: Sequence[WellTask], *, crew: Crew, keys: Mapping[str, str], total: int
) -> dict[str, WellState]:
    """Have wells computed by workers."""
    states: dict[str, WellState] = {}
    calls = [WellCall(task.well, keys[task.well]) for task in tasks]
    for well, state in employ(crew, request=context.request, calls=calls):
        states[well] = state
        context.progress(Progress(context.request.step, total - len(tasks) + len(states), total, well))
    return states


def _collect(context: StepContext, tasks: Sequence[WellTask], *, keys: Mapping[str, str]) -> dict[str, WellPayload]:
    """Take what workers have left."""
    found = {task.well: load_checkpoint(_folder(context, task), key=keys[task.well]) for task in tasks}
    payloads = {well: payload for well, payload in found.items() if payload is not None}
    if lost := sorted(found.keys() - payloads.keys()):
        raise TransientError(
            expected="the results that workers have just stored",
            found=f"none of {', '.join(lost)}",
            where=str(context.layout.checkpoints(context.request.step, experiment=context.experiment)),
            remedy="run the step again; look whether the disk is whole",
        )
    return payloads


def _state(made: WellPayload | WellState, *, key: str) -> WellState:
    return made if isinstance(made, WellState) else WellState(key=key, status="ok")


def _folder(context: StepContext, task: WellTask) -> Path:
    return context.layout.checkpoints(context.request.step, experiment=context.experiment) / task.well


def _key(context: StepContext, task: WellTask) -> str:
    request = context.request
    return hash_json(
        {
            "experiment": request.experiment,
            "step": request.step,
            "version": request.version,
            "recipe": request.recipe,
            "well": task.well,
            "inputs": task.inputs,
        }
    )


def _published(context: StepContext) -> Record | None:
    """Read the record of the published artifact if the artifact is what the record says."""
    record = read_record(context.layout, primary=context.primary)
    if record is None or compare_output(context.layout, record=record) is not OutputVerdict.AS_RECORDED:
        return None
    return record


def _reuse(
    context: StepContext,
    task: WellTask,
    *,
    key: str,
    published: Record | None,
    restore: Callable[[WellTask], WellPayload | None],
) -> WellPayload | None:
    state = published.wells.get(task.well) if published is not None else None
    if state is not None and state.key == key and state.status == "ok":
        payload = restore(task)
        if payload is not None:
            return payload
    return load_checkpoint(_folder(context, task), key=key)


def _failed(error: Exception, *, context: StepContext, task: WellTask, key: str, before: Record | None) -> WellState:
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno in _SURROUNDINGS):
        raise error
    told: ErrorReport = report(error)
    reason = told.message
    if told.kind == "unexpected":
        frame = traceback.extract_tb(error.__traceback__)[-1]
        reason += f" ({frame.name}, {frame.filename.rpartition('/')[2]}:{frame.lineno})"
    _LOG.warning("well %s failed: %s", task.well, reason, exc_info=told.kind == "unexpected")
    # Reasons enter artifacts, whose bytes must not depend on where the data lie.
    reason = context.portable(reason)
    earlier = before.wells.get(task.well) if before is not None else None
    tries = earlier.tries + 1 if earlier is not None and earlier.key == key and earlier.status == "failed" else 1
    return WellState(key=key, status="failed", reason=reason, transient=told.kind == "transient", tries=tries)


def _refuse_too_many(context: StepContext, states: Mapping[str, WellState], *, max_failed_share: float) -> None:
    failed = {well: state for well, state in states.items() if state.status == "failed"}
    if not states or len(failed) <= max_failed_share * len(states):
        return
    kind = TransientError if all(state.transient for state in failed.values()) else PermanentError
    raise kind(
        expected=f"at most {max_failed_share:.0%} of {len(states)} wells to fail",
        found=f"{len(failed)} failed: " + "; ".join(f"{well}: {state.reason}" for well, state in failed.items()),
        where=f"step {context.request.step} of experiment {context.experiment}",
        remedy="mend the named wells and run the step again; finished wells are kept",
    )
