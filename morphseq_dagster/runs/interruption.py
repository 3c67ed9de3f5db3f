"""Interruption: a run in this process that a signal ends is cancelled, and nothing follows it.

`execute` runs a Dagster job inside a command or another run. Dagster alone would call such a run failed and go on with
what follows, as after any failure; a signal after the last step it would drop. How a run stands, seen from outside, is
`states.py`.
"""

from __future__ import annotations

import gc
import os
import signal
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import dagster as dg
from dagster import DagsterEvent, DagsterEventType, EventLogEntry

# These two have no public name in Dagster 1.13.
from dagster._core.events import RunFailureReason
from dagster._core.execution.plan.objects import ErrorSource

_WORDS: Final = "Interrupted from outside."
_ENDING: Final = frozenset({signal.SIGINT, signal.SIGTERM})


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
        When a signal ended the run, which is cancelled, or came when all its steps were done; then the run stands.
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
    with _noticing() as has_come:
        result = job.execute_in_process(instance=instance, run_id=run_id, raise_on_error=False, **options)
        if interrupts or has_come():
            # A step that was storing its output stands still in its middle, and so does its claim. Dagster's frames and
            # their error hold each other and the step, until they are collected.
            gc.collect()
            raise KeyboardInterrupt
    return result


def is_interrupt(event: DagsterEvent) -> bool:
    """Whether an event says that a signal ended a run: in the middle of a step, or between two."""
    if event.event_type is DagsterEventType.STEP_FAILURE:
        return event.step_failure_data.error_source is ErrorSource.INTERRUPT
    if event.event_type is DagsterEventType.RUN_FAILURE:
        return event.job_failure_data.failure_reason is RunFailureReason.UNEXPECTED_TERMINATION
    return False


@contextmanager
def _noticing() -> Iterator[Callable[[], bool]]:
    """Notice signals that end a run whatever handles them; gives the question whether one came."""
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    reading, writing = os.pipe()
    for descriptor in (reading, writing):
        os.set_blocking(descriptor, False)
    before = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)

    def has_come() -> bool:
        try:
            return not _ENDING.isdisjoint(os.read(reading, 4096))
        except BlockingIOError:
            return False

    try:
        yield has_come
    finally:
        signal.set_wakeup_fd(before)
        os.close(reading)
        os.close(writing)
