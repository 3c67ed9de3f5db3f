"""Locked step: the way of one step of one key - lock, roll forward, request, "nothing changed" test, run, publish.

Assets, bulk runs, command line and tests all go this way. What is stale, and why, the planner finds without a lock
(`engine/planner`); the test here is the one that counts.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from morphseq_dagster.engine.contract.step import StepRequest, StepSpec
from morphseq_dagster.engine.executors.execution import fail_request, note_failure, publish, verify
from morphseq_dagster.engine.executors.local import LocalExecutor
from morphseq_dagster.engine.executors.protocol import Committed, Executed, Executor, Report, stay_silent
from morphseq_dagster.engine.layout import COHORT, Layout
from morphseq_dagster.engine.planner.plan import needs_bytes
from morphseq_dagster.engine.storage.checkpoints import clear_checkpoints
from morphseq_dagster.engine.storage.commit import is_interrupted, roll_forward
from morphseq_dagster.engine.storage.records import (
    MAX_WELL_TRIES,
    OutputVerdict,
    Record,
    clear_failure,
    compare_output,
    read_record,
)
from morphseq_dagster.engine.storage.step_locks import StepLock, hold_lock
from morphseq_dagster.engine.storage.untracked_files import find_untracked, put_aside
from morphseq_dagster.engine.workspace import Workspace
from morphseq_dagster.errors import MorphseqError, PermanentError, report, restore

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class LockedStep:
    """A step whose lock is held.

    Parameters
    ----------
    spec, request, executor
        What is asked for, and where it would run.
    cached
        Record of the published result, if nothing changed since.
    recalled
        That record as the result of this very run, whose executor published it while the run was not there.
    """

    spec: StepSpec
    request: StepRequest
    executor: Executor
    cached: Record | None
    recalled: Committed | None = None

    def run(self, *, progress: Report = stay_silent) -> Executed | Committed:
        """Run it; the executor records a failure before it raises it."""
        return self.executor.run(self.spec, request=self.request, progress=progress)


@contextmanager
def lock_step(
    spec: StepSpec,
    *,
    workspace: Workspace,
    experiment: str,
    run_id: str,
    executor: Executor | None = None,
    force: bool = False,
    repeated: bool = False,
    replace_untracked: bool = False,
    on_wait: Callable[[StepLock], None] | None = None,
) -> Iterator[LockedStep]:
    """Lock a step and find out whether it must run; the lock lasts as long as the `with` block.

    Parameters
    ----------
    spec, workspace, experiment, run_id
        What runs, where, and on whose behalf.
    executor
        Where it would run; this process unless given.
    force
        Run although nothing changed.
    repeated
        The run has finished this step already, in a process before this one: its result stands, also when it was
        forced or has wells left to try.
    replace_untracked
        Put aside what lies at the artifact's place without a record, instead of refusing to run; `force` does too.
    on_wait
        Called with the lock when the step is at work elsewhere.

    Raises
    ------
    MorphseqError
        When the request cannot be made (an input is missing); recorded as the step's failure.
    PermanentError
        When the key is none: it becomes part of paths. When the result would replace files that no record accounts for.
    TransientError
        When the operating system refuses something inside the block, with its remedy.
    """
    if not workspace.pipeline.is_cohort(spec):
        workspace.pipeline.keys.check(experiment)
    layout = workspace.layout
    executor = executor or LocalExecutor(workspace.pipeline)
    path = layout.lock(spec.name, experiment=experiment)
    force = force and not repeated
    try:
        with hold_lock(path, run_id=run_id, on_wait=on_wait or _log_wait, over_silent=True):
            if not executor.is_at_work(layout, step=spec.name, experiment=experiment):
                # Else its work may be publishing right now; the executor rolls forward when that has ended.
                roll_forward(layout, step=spec.name, experiment=experiment)
            request = _make_request(spec, workspace=workspace, experiment=experiment, run_id=run_id, force=force)
            cached = None if force else find_answer(layout, spec=spec, request=request, again=not repeated)
            if cached is not None and cached.condition == "pruned" and _is_needed(workspace, request=request):
                cached = None
            recalled = _recall(layout, executor=executor, request=request, cached=cached)
            cached = cached if recalled is None else recalled.record
            if cached is not None:
                _forget_attempts(layout, request=request)
            else:
                _clear_place(layout, executor=executor, request=request, replace=force or replace_untracked)
            yield LockedStep(spec, request, executor, cached, recalled=recalled)
    except OSError as error:
        raise restore(report(error)) from error


def _make_request(spec: StepSpec, *, workspace: Workspace, experiment: str, run_id: str, force: bool) -> StepRequest:
    """Make the request; that it cannot be made is recorded as the step's failure."""
    try:
        return workspace.request(spec, experiment=experiment, run_id=run_id, force=force)
    except MorphseqError as error:
        layout = workspace.layout
        output = layout.relative(workspace.output(spec, experiment=experiment))
        note_failure(layout, output=output, step=spec.name, experiment=experiment, run_id=run_id, error=error)
        raise


def _recall(layout: Layout, *, executor: Executor, request: StepRequest, cached: Record | None) -> Committed | None:
    """Recall what this run's executor published; it was asked for just now, hence forced or not it is the answer."""
    record = cached or read_record(layout, primary=layout.absolute(request.output))
    if record is None or record.request_key != request.key:
        return None
    facts = executor.recall(layout, record=record, run_id=request.run_id)
    if facts is None or (cached is None and compare_output(layout, record=record) is not OutputVerdict.AS_RECORDED):
        return None
    return Committed(request, record, facts=facts)


def _forget_attempts(layout: Layout, *, request: StepRequest) -> None:
    """Remove what attempts with other inputs or recipes left, now that the published result answers again."""
    clear_failure(layout, primary=layout.absolute(request.output))
    clear_checkpoints(layout.checkpoints(request.step, experiment=request.experiment))


def _clear_place(layout: Layout, *, executor: Executor, request: StepRequest, replace: bool) -> None:
    """Refuse to replace files that no record accounts for, or put them aside.

    What a crash left is none of these: its publication has been rolled forward, or its journal still stands.
    """
    step, experiment, primary = request.step, request.experiment, layout.absolute(request.output)
    untracked = list(find_untracked(layout, step=step, experiment=experiment, primary=primary))
    if not untracked or is_interrupted(layout, step=step, experiment=experiment):
        return
    if executor.is_at_work(layout, step=step, experiment=experiment):
        return
    if replace:
        for path in untracked:
            _LOG.info("%s lay there without a record, it is kept as %s", path, put_aside(layout, path))
        return
    error = PermanentError(
        expected=f"an empty place for the result of {step}, or one with a record",
        found=f"{len(untracked)} files without a record, the first: {layout.relative(untracked[0])}",
        where=request.output,
        remedy=f"`morphseq adopt --experiments {experiment}` checks them and gives them a record; "
        f"`morphseq reconcile --discard {request.output}` puts them aside, and so does --force",
    )
    fail_request(layout, request=request, error=error)
    raise error


def find_answer(
    layout: Layout, *, spec: StepSpec, request: StepRequest, thorough: bool = False, again: bool = True
) -> Record | None:
    """Find the record that answers a request: same key, output as recorded, no well left to try `again`.

    An edit by hand that was declared valid answers every request; what was pruned counts as there.

    Raises
    ------
    PermanentError
        When a declared edit was edited again: computing would destroy what a person wanted kept.
    """
    record = read_record(layout, primary=layout.absolute(request.output))
    if record is None or record.condition == "discarded":
        return None
    if record.origin == "external_edit" and record.condition == "published":
        return _find_edit(layout, record=record, thorough=thorough)
    record = spec.translate(record)
    left = any(well.transient and well.tries < MAX_WELL_TRIES for well in record.wells.values())
    if (left and again) or record.request_key != request.key:
        return None
    stands = record.condition == "pruned" or (
        compare_output(layout, record=record, thorough=thorough) is OutputVerdict.AS_RECORDED
    )
    return record if stands else None


def _find_edit(layout: Layout, *, record: Record, thorough: bool) -> Record | None:
    """Find a declared edit unchanged, or gone; changed once more it waits for a person."""
    verdict = compare_output(layout, record=record, thorough=thorough)
    if verdict is OutputVerdict.CHANGED:
        raise PermanentError(
            expected="the edit as it was kept",
            found="another edit",
            where=record.output.path,
            remedy="`morphseq reconcile` keeps or discards it; --force computes it anew",
        )
    return record if verdict is OutputVerdict.AS_RECORDED else None


def _is_needed(workspace: Workspace, *, request: StepRequest) -> bool:
    """Whether a step after a pruned one will read its bytes."""
    if request.experiment == COHORT:
        return False
    return needs_bytes(workspace, experiment=request.experiment, step=request.step)


def discard_unpublished(layout: Layout, *, outcome: Executed | Committed) -> None:
    """Remove what was staged and will never be committed; what is published or promised by a journal stays."""
    if isinstance(outcome, Executed):
        request = outcome.request
        if not is_interrupted(layout, step=request.step, experiment=request.experiment):
            outcome.staged.discard()


def finish(layout: Layout, *, outcome: Executed | Committed) -> Record:
    """Commit what ran here; verify what another process committed."""
    if isinstance(outcome, Executed):
        return publish(layout, executed=outcome)
    return verify(layout, committed=outcome)


def _log_wait(lock: StepLock) -> None:
    _LOG.info("waiting for %s", lock.holder())
