"""Interruption: a run in this process that a signal ends is cancelled, and nothing follows it.

Holds the execution of a job inside another process's work, a command's or a run's. Left to itself Dagster calls such a
run failed, since nobody asked for its end before, and returns as from any failure.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

import dagster as dg
from dagster import DagsterEvent, DagsterEventType, EventLogEntry

# These two have no public name in Dagster 1.13.
from dagster._core.events import RunFailureReason
from dagster._core.execution.plan.objects import ErrorSource

_WORDS = "Interrupted from outside."


def execute(
    job: dg.JobDefinition,
    *,
    instance: dg.DagsterInstance,
    listen: Callable[[EventLogEntry], None] | None = None,
    **options: Any,  # noqa: ANN401 - handed on as they are
) -> dg.ExecuteInProcessResult:
    """Run a job in this process; a failure is a result.

    Parameters
    ----------
    job
        The job.
    instance
        The Dagster instance.
    listen
        Called with every event of the run.
    **options
        As for `execute_in_process`.

    Raises
    ------
    KeyboardInterrupt
        When a signal ended the run; it is cancelled.
    """
    run_id = str(uuid.uuid4())
    interrupts: list[DagsterEvent] = []

    def cancel(entry: EventLogEntry) -> None:
        event = entry.dagster_event
        if event is None or not is_interrupt(event):
            return
        interrupts.append(event)
        run = instance.get_run_by_id(run_id)
        if run is not None and event.is_step_failure:
            instance.report_run_canceling(run, _WORDS)
        elif run is not None:
            instance.report_run_canceled(run, _WORDS)

    for listener in [cancel, *([listen] if listen is not None else [])]:
        instance.add_event_listener(run_id, listener)
    result = job.execute_in_process(instance=instance, run_id=run_id, raise_on_error=False, **options)
    if interrupts:
        raise KeyboardInterrupt
    return result


def is_interrupt(event: DagsterEvent) -> bool:
    """Whether an event says that a signal ended a run: in the middle of a step, or between two."""
    if event.event_type is DagsterEventType.STEP_FAILURE:
        return event.step_failure_data.error_source is ErrorSource.INTERRUPT
    if event.event_type is DagsterEventType.RUN_FAILURE:
        return event.job_failure_data.failure_reason is RunFailureReason.UNEXPECTED_TERMINATION
    return False
