"""Wells: map a step's computation over wells, with checkpoints, reuse and isolation of failures.

An unchanged well is taken from the published artifact, a finished one from its checkpoint; a failing well becomes a
state with its reason, and too many failing wells fail the step. Wells are computed here, or by the workers that the
step's context carries (`workers.py`); either way a result goes through its checkpoint, so that its bytes are the same.
"""

from __future__ import annotations

import errno
import logging
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypeVar

from morphseq_dagster.engine.contract.context import StepContext
from morphseq_dagster.engine.contract.progress import Progress
from morphseq_dagster.engine.storage.checkpoints import WellPayload, load_checkpoint, save_checkpoint
from morphseq_dagster.engine.storage.hashing import hash_json
from morphseq_dagster.engine.storage.records import OutputVerdict, Record, WellState, compare_output, read_record
from morphseq_dagster.errors import PermanentError, TransientError, report

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


State = TypeVar("State")


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
    compute: Callable[[WellTask, State], WellPayload],
    load: Callable[[StepContext], State],
    state: State,
    restore: Callable[[WellTask], WellPayload | None],
    max_failed_share: float,
) -> WellRun:
    """Compute every well that is not finished already.

    Parameters
    ----------
    context
        The step's context.
    tasks
        Wells in the order of work.
    compute
        Computes one well; a function of a module, since workers import it.
    load
        Makes what `compute` needs beside the task - inputs that were read, a loaded model - once in every worker; a
        function or class of a module.
    state
        The same as the body itself has loaded it, for wells that are computed here.
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
    made: dict[str, WellPayload | WellState] = {}

    def keep(well: str, result: WellPayload | WellState) -> None:
        made[well] = result
        context.progress(Progress(context.request.step, len(made), len(tasks), well))

    left: dict[str, WellTask] = {}
    for task in tasks:
        reused = None
        if not context.request.force:
            reused = _reuse(context, task, key=keys[task.well], published=published, restore=restore)
        if reused is None:
            left[task.well] = task
        else:
            keep(task.well, reused)
    work = _Work(context, compute, load, keys, published.wells if published is not None else {})
    if context.workers is not None and left:
        for well, result in context.workers.map(work, left):
            keep(well, result)
    else:
        for well, task in left.items():
            keep(well, work.run(task, state=state))
    # Results stand in the order of the tasks, whoever made them and whenever.
    ordered = {task.well: made[task.well] for task in tasks}
    payloads = {well: result for well, result in ordered.items() if isinstance(result, WellPayload)}
    states = {
        well: result if isinstance(result, WellState) else WellState(key=keys[well], status="ok")
        for well, result in ordered.items()
    }
    _refuse_too_many(context, states, max_failed_share=max_failed_share)
    return WellRun(payloads, states, len(left))


@dataclass(frozen=True)
class _Work(Generic[State]):
    """The work on wells, as it is sent to workers: called there once, it loads the state and gives what runs a well."""

    context: StepContext
    compute: Callable[[WellTask, State], WellPayload]
    load: Callable[[StepContext], State]
    keys: Mapping[str, str]
    published: Mapping[str, WellState]

    def __call__(self) -> Callable[[WellTask], WellPayload | WellState]:
        return partial(self.run, state=self.load(self.context))

    def run(self, task: WellTask, *, state: State) -> WellPayload | WellState:
        """Compute one well into its checkpoint; a failure becomes the state of the well."""
        key = self.keys[task.well]
        try:
            return save_checkpoint(_folder(self.context, task), key=key, payload=self.compute(task, state))
        except Exception as error:  # noqa: BLE001 - whatever a well raises becomes its recorded reason
            return _failed(error, context=self.context, task=task, key=key, before=self.published.get(task.well))


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


def _failed(error: Exception, *, context: StepContext, task: WellTask, key: str, before: WellState | None) -> WellState:
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno in _SURROUNDINGS):
        raise error
    failure = report(error)
    reason = failure.message
    if failure.kind == "unexpected":
        frame = traceback.extract_tb(error.__traceback__)[-1]
        reason += f" ({frame.name}, {frame.filename.rpartition('/')[2]}:{frame.lineno})"
    _LOG.warning("well %s failed: %s", task.well, reason, exc_info=failure.kind == "unexpected")
    # Reasons enter artifacts, whose bytes must not depend on where the data lie.
    reason = context.portable(reason)
    tries = before.tries + 1 if before is not None and before.key == key and before.status == "failed" else 1
    return WellState(key=key, status="failed", reason=reason, transient=failure.kind == "transient", tries=tries)


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
