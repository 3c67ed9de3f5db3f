"""Execution: run a step's body with accounting, publish what it staged with its record, record why it failed.

This is equal wherever a step runs. The lock around it is taken in `engine/locked_step.py`; where it runs is decided by
an executor (`protocol.py`).
"""

from __future__ import annotations

import logging
import os
import resource
import time
from pathlib import Path
from typing import Any, Final

from morphseq_dagster.engine.contract.context import StepContext
from morphseq_dagster.engine.contract.step import StepRequest, StepSpec
from morphseq_dagster.engine.contract.workers import Workers
from morphseq_dagster.engine.executors.environment import describe_environment
from morphseq_dagster.engine.executors.pool import WorkerLostError
from morphseq_dagster.engine.executors.protocol import Committed, Executed, Report, stay_silent
from morphseq_dagster.engine.layout import Layout
from morphseq_dagster.engine.storage.atomic_io import host_name, write_durably
from morphseq_dagster.engine.storage.checkpoints import clear_checkpoints
from morphseq_dagster.engine.storage.commit import commit
from morphseq_dagster.engine.storage.records import (
    Failure,
    OutputVerdict,
    Record,
    compare_output,
    read_failure,
    read_record,
    timestamp,
    write_failure,
)
from morphseq_dagster.engine.storage.staging import Staged
from morphseq_dagster.errors import MorphseqError, PermanentError, report

_LOG = logging.getLogger(__name__)
HERE: Final = "process"
"""Name of the executor that is the calling process."""


def execute_body(
    spec: StepSpec,
    *,
    request: StepRequest,
    layout: Layout,
    place: str,
    workers: Workers | None = None,
    progress: Report = stay_silent,
) -> Executed:
    """Run a step's body in this process and time it; a failure is recorded before it is raised.

    Parameters
    ----------
    spec, request, layout, place
        What runs, on what, where its artifacts lie, and the executor's name for the record.
    workers
        Compute the wells; without them this process does, well after well.
    progress
        Called with how far the step is.

    Raises
    ------
    PermanentError
        When the code here is another version than the request asks for.
    WorkerLostError
        When a worker died; recorded by whoever started this process, where that is not the caller's own.
    """
    try:
        return _execute(spec, request=request, layout=layout, place=place, workers=workers, progress=progress)
    except BaseException as error:
        if not (isinstance(error, WorkerLostError) and place != HERE):
            fail_request(layout, request=request, error=error)
        raise


def _execute(
    spec: StepSpec,
    *,
    request: StepRequest,
    layout: Layout,
    place: str,
    workers: Workers | None,
    progress: Report,
) -> Executed:
    if spec.version != request.version:
        raise PermanentError(
            expected=f"version {request.version} of step {request.step}",
            found=f"version {spec.version}",
            where=f"executor {place}, host {host_name()}",
            remedy="install the same release wherever steps run",
        )
    started_at, clock, cpu = timestamp(), time.monotonic(), _cpu_seconds()
    body = spec.load()
    result = body(StepContext(request, layout=layout, progress=progress, workers=workers))
    return Executed(
        request=request,
        staged=result.staged,
        started_at=started_at,
        finished_at=timestamp(),
        seconds=round(time.monotonic() - clock, 3),
        cpu_seconds=round(_cpu_seconds() - cpu, 3),
        place=place,
    )


def publish(layout: Layout, *, executed: Executed) -> Record:
    """Commit an executed step with its record; a failing commit leaves a failure record."""
    staged = executed.staged
    try:
        try:
            record = make_record(
                layout,
                request=executed.request,
                staged=staged,
                place=executed.place,
                environment=describe_environment().hash,
                started_at=executed.started_at,
                finished_at=executed.finished_at,
                seconds=executed.seconds,
                cpu_seconds=executed.cpu_seconds,
            )
        except BaseException:
            staged.discard()
            raise
        commit(layout, staged=staged, record=record)
    except BaseException as error:
        fail_request(layout, request=executed.request, error=error)
        raise
    if staged.preview is not None:
        try:
            write_durably(layout.preview(record.step, experiment=record.experiment), staged.preview)
        except OSError as error:  # the artifact is published: a picture of it that is lost undoes nothing
            _LOG.warning("the preview of %s could not be written: %s", record.step, error)
    clear_checkpoints(layout.checkpoints(record.step, experiment=record.experiment))
    return record


def verify(layout: Layout, *, committed: Committed) -> Record:
    """Check what another process published: the record on disk answers the request and the file is the recorded one.

    Raises
    ------
    PermanentError
        On any mismatch.
    """
    request = committed.request
    record = read_record(layout, primary=layout.absolute(request.output))
    if record is None or record.request_key != request.key:
        found = "no record" if record is None else f"a record of request {record.request_key[:12]}"
    else:
        verdict = compare_output(layout, record=record)
        if verdict is OutputVerdict.AS_RECORDED:
            return record
        found = f"an output that is {verdict.value}"
    raise PermanentError(
        expected=f"the recorded result of request {request.key[:12]}",
        found=found,
        where=request.output,
        remedy="check that both processes see the same data root, then run the step again",
    )


def fail_request(layout: Layout, *, request: StepRequest, error: BaseException) -> None:
    """Store why a request failed."""
    note_failure(
        layout,
        output=request.output,
        step=request.step,
        experiment=request.experiment,
        run_id=request.run_id,
        error=error,
        request_key=request.key,
    )


def note_failure(
    layout: Layout,
    *,
    output: str,
    step: str,
    experiment: str,
    run_id: str,
    error: BaseException,
    request_key: str = "",
) -> None:
    """Store why a step failed, unless the disk refuses that as well (the error itself is then all there is).

    `request_key` is empty where the request itself could not be made, because an input is missing, say.
    """
    primary = layout.absolute(output)
    try:
        earlier = read_failure(layout, primary=primary)
    except (MorphseqError, OSError):
        earlier = None  # a damaged failure record is replaced
    tries = earlier.tries + 1 if earlier is not None and earlier.request_key == request_key else 1
    failure = Failure(
        step=step,
        experiment=experiment,
        request_key=request_key,
        error=report(error),
        run_id=run_id,
        host=host_name(),
        failed_at=timestamp(),
        tries=tries,
    )
    try:
        write_failure(layout, primary=primary, failure=failure)
    except OSError as refused:
        error.add_note(f"the failure could not be recorded either: {refused}")


def make_record(layout: Layout, *, request: StepRequest, staged: Staged, **made: Any) -> Record:  # noqa: ANN401
    """Make the record of what was staged for a request; `made` are its fields that say where, when and from what."""
    return Record(
        step=request.step,
        experiment=request.experiment,
        status=staged.status,
        data_version=staged.data_version,
        output=staged.describe(layout),
        inputs=request.inputs,
        step_version=request.version,
        recipe=request.recipe,
        recipe_hash=request.recipe_hash,
        request_key=request.key,
        backend=staged.backend,
        counts=dict(staged.counts),
        wells=dict(staged.wells),
        warnings=staged.warnings,
        run_id=request.run_id,
        host=host_name(),
        pid=os.getpid(),
        **made,
    )


def read_request(path: Path) -> StepRequest:
    """Read a request file."""
    return StepRequest.model_validate_json(path.read_bytes())


def _cpu_seconds() -> float:
    own, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime
