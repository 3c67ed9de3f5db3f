"""Signals while a run is executed inside another process's work."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator

import dagster as dg
import pytest

from morphseq_dagster.runs.interruption import execute


@dg.op
def nothing() -> None:
    """Nothing."""


@dg.job(executor_def=dg.in_process_executor)
def empty() -> None:
    """Nothing."""
    nothing()


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as found:
        yield found


def send_at(kind: dg.DagsterEventType, number: signal.Signals) -> Callable[[dg.EventLogEntry], None]:
    def listen(entry: dg.EventLogEntry) -> None:
        if entry.dagster_event is not None and entry.dagster_event.event_type is kind:
            os.kill(os.getpid(), number)

    return listen


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_signal_after_the_last_step_is_not_lost(instance: dg.DagsterInstance, sent: signal.Signals) -> None:
    for _ in range(2):  # the second time nothing is left of the first
        with pytest.raises(KeyboardInterrupt):
            execute(empty, instance=instance, listen=send_at(dg.DagsterEventType.RUN_SUCCESS, sent))
    assert {run.status for run in instance.get_runs()} == {dg.DagsterRunStatus.SUCCESS}
    assert execute(empty, instance=instance).success
    assert signal.set_wakeup_fd(-1) == -1


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_step_that_is_interrupted_while_its_output_is_stored_leaves_its_blocks(
    instance: dg.DagsterInstance, sent: signal.Signals
) -> None:
    held: list[str] = []

    @dg.op
    def holding() -> Iterator[dg.Output[int]]:
        held.append("claim")
        try:
            yield dg.Output(1)
        finally:
            held.clear()

    @dg.job(executor_def=dg.in_process_executor)
    def job() -> None:
        holding()

    with pytest.raises(KeyboardInterrupt):
        execute(job, instance=instance, listen=send_at(dg.DagsterEventType.STEP_OUTPUT, sent))
    assert [run.status for run in instance.get_runs()] == [dg.DagsterRunStatus.CANCELED]
    assert held == []


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_signal_before_a_step_cancels_the_run(instance: dg.DagsterInstance, sent: signal.Signals) -> None:
    with pytest.raises(KeyboardInterrupt):
        execute(empty, instance=instance, listen=send_at(dg.DagsterEventType.RUN_START, sent))
    assert [run.status for run in instance.get_runs()] == [dg.DagsterRunStatus.CANCELED]
