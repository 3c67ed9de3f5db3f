"""Pilot jobs on the bench of the cluster: submitted, watched, and what their requests came to."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from morphseq_dagster.cluster.attempt_folder import Attempt
from morphseq_dagster.cluster.job import JobSpec
from morphseq_dagster.cluster.job_handle import JobHandle, JobVerdict
from morphseq_dagster.cluster.outcome import JobOutcome
from morphseq_dagster.cluster.pilot.job import PilotTask, submit_pilot
from morphseq_dagster.cluster.poller import Poller, Watch
from morphseq_dagster.settings.job_values import Resources
from tests.support.slurm_bench import Bench, wait_for

SMALL = Resources(memory="32M", time="5")


def tasks(specs: Sequence[JobSpec]) -> list[PilotTask]:
    return [PilotTask(spec, lambda _: None) for spec in specs]


def pilot_of(bench: Bench, specs: Sequence[JobSpec], *, workers: int = 4, run_id: str = "run") -> list[JobHandle]:
    lives = submit_pilot(bench.client, tasks(specs), workers=workers, python=sys.executable, run_id=run_id)
    assert all(live is not None for live in lives)
    return [live for live in lives if live is not None]


def small(bench: Bench, count: int, body: str = "", *, first: str = "", **more: object) -> list[JobSpec]:
    """Requests that do next to nothing; the first one may do something else."""
    return [
        bench.spec(f"m{number:03d}", first if first and number == 0 else body, resources=SMALL, **more)
        for number in range(count)
    ]


@contextmanager
def watched(bench: Bench, lives: Sequence[JobHandle]) -> Iterator[list[Watch]]:
    poller = Poller(bench.client)
    try:
        yield [poller.watch(live, done=bench.done(live.spec.group[1])) for live in lives]
    finally:
        poller.close()


def finish(bench: Bench, lives: Sequence[JobHandle]) -> list[JobVerdict]:
    with watched(bench, lives) as watches:
        wait_for(lambda: all(watch.ended.is_set() for watch in watches), timeout_s=300)
        return [verdict(watch) for watch in watches]


def verdict(watch: Watch) -> JobVerdict:
    verdict = watch.wait(0)
    assert verdict is not None
    return verdict


def pilots_of(bench: Bench) -> list[Attempt]:
    root = bench.client.root
    return [
        attempt
        for folder in sorted((root.root / "_packs").glob("*"))
        for attempt in root.attempts(("_packs",), key=folder.name)
    ]


def asked_at(attempt: Attempt) -> float:
    return float((attempt.record("intent") or {})["t"])


def kinds(verdicts: Sequence[JobVerdict]) -> list[JobOutcome]:
    return [verdict.outcome for verdict in verdicts]


def begun(bench: Bench, specs: Sequence[JobSpec]) -> int:
    """Count the requests whose command has begun."""
    return sum(bench.executions(spec.group[1]) > 0 for spec in specs)


def executions(bench: Bench, specs: Sequence[JobSpec]) -> set[int]:
    return {bench.executions(spec.group[1]) for spec in specs}
