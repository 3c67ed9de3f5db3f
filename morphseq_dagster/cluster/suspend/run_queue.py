"""Run queue: Dagster's own, in which suspended runs take no place.

`max_concurrent_runs` counts the runs that have a process.
"""

from __future__ import annotations

from pathlib import Path

from dagster._core.run_coordinator.queued_run_coordinator import QueuedRunCoordinator, RunQueueConfig

from morphseq_dagster.cluster.suspend.state import WorkerStates
from morphseq_dagster.errors import PermanentError


class SuspendingRunCoordinator(QueuedRunCoordinator):
    """Queues runs, and starts as many at once as there are places for processes."""

    def get_run_queue_config(self) -> RunQueueConfig:
        """Limits of the queue as they are now; Dagster asks before each look at it.

        Raises
        ------
        PermanentError
            When another setting overrules the limit.
        """
        if "max_concurrent_runs" in (self._instance.get_settings("concurrency").get("runs") or {}):
            raise PermanentError(
                expected="the limit of runs in run_coordinator.config.max_concurrent_runs",
                found="concurrency.runs.max_concurrent_runs, which counts suspended runs and overrules it",
                where="dagster.yaml",
                remedy="remove the section concurrency.runs",
            )
        config = super().get_run_queue_config()
        if config.max_concurrent_runs < 0:  # no limit
            return config
        suspended = len(WorkerStates(Path(self._instance.root_directory)).suspended())
        return config._replace(max_concurrent_runs=config.max_concurrent_runs + suspended)
