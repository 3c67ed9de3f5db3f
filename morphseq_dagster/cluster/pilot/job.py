"""Pilot jobs: several requests in one allocation, submitted by the protocol of a single job.

Each request keeps its own attempt with folder, claim, records and verdict. The pilot job is an attempt too, submitted
only once: its key is made of its tasks' tokens, and the intent of each task names it, so that whoever finds a task
finds the job. The job runs the program `agent.py`; with chained steps (`chaining.py`) one task carries a whole
experiment.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Final

from morphseq_dagster.cluster.attempt_folder import PILOTS, Attempt
from morphseq_dagster.cluster.client import Client
from morphseq_dagster.cluster.errors import RejectedError
from morphseq_dagster.cluster.job import ATTEMPT, JobSpec
from morphseq_dagster.cluster.job_handle import JobHandle
from morphseq_dagster.cluster.outcome import JobOutcome
from morphseq_dagster.cluster.script import write_script
from morphseq_dagster.engine.storage.atomic_io import write_whole
from morphseq_dagster.settings.job_values import MAX_CPUS, Resources, check_path

_WRITERS: Final = 16


@dataclass(frozen=True)
class PilotTask:
    """A request for a pilot job, to become one of its tasks.

    Parameters
    ----------
    spec
        Its job, were it alone.
    on_attempt
        Called with its attempt before anything is submitted, so that an interrupted caller can cancel.
    then
        What may follow on it in the same allocation; the module of its command knows what this means.
    """

    spec: JobSpec
    on_attempt: Callable[[Attempt], None]
    then: tuple[str, ...] = ()


def resources_of_pilot(
    one: Resources,
    *,
    tasks: int,
    workers: int,
    each_s: float = 60.0,
    time_limit: str | None = None,
    links: int = 1,
) -> Resources:
    """Ask for several tasks at once and, of time, for all of them.

    Parameters
    ----------
    one
        What a task asks for.
    tasks, workers
        How many there are, and how many are at work at once.
    each_s
        What a task is expected to take, in seconds; it is counted twice.
    time_limit
        Limit of the allocation; unless given that of one task, and `each_s` twice for each further round. None where
        tasks have none.
    links
        Requests that follow one another in the longest chain, the first one included: each may need its whole time.
    """
    memory = None if one.memory is None else f"{workers * int(one.memory[:-1])}{one.memory[-1]}"
    if time_limit is None and one.time_s is not None:
        rounds = math.ceil(tasks / workers) - 1
        time_limit = str(math.ceil(links * (one.time_s + 2 * each_s * rounds) / 60))
    return replace(one, cpus=workers * one.cpus, memory=memory, time=time_limit)


def submit_pilot(
    client: Client,
    tasks: Sequence[PilotTask],
    *,
    workers: int,
    python: str,
    each_s: float = 60.0,
    time_limit: str | None = None,
    run_id: str = "",
) -> list[JobHandle | None]:
    """Submit requests as one job; None for those that somebody else has begun meanwhile.

    Parameters
    ----------
    client
        The client.
    tasks
        Requests that ask for equal resources.
    workers
        Tasks at work at once.
    python
        Python of the nodes; tasks whose command is a module of it share one start.
    each_s, time_limit
        As in `resources_of_pilot`.
    run_id
        On whose behalf.

    Raises
    ------
    UnreachableError
        Nobody answers: `Client.ensure` of each task finds the job, or gives its attempt up.
    RejectedError
        The scheduler does not take the job; the attempts are closed.
    PermanentError
        The job cannot be written as a safe script.
    """
    one = tasks[0].spec
    if any(_asks(task.spec) != _asks(one) for task in tasks):
        raise ValueError("tasks of a pilot job ask for the same")
    with ThreadPoolExecutor(min(_WRITERS, len(tasks))) as pool:
        begun = list(pool.map(lambda task: _begin(client, task), tasks))
        taken = [(m, attempt) for m, attempt in zip(tasks, begun, strict=True) if attempt is not None]
        if not taken:
            return [None] * len(tasks)
        workers = max(1, min(workers, len(taken), MAX_CPUS // one.resources.cpus))
        needs = resources_of_pilot(
            one.resources,
            tasks=len(taken),
            workers=workers,
            each_s=each_s,
            time_limit=time_limit,
            links=1 + max(len(task.then) for task in tasks),
        )
        attempts = [attempt for _, attempt in taken]
        key = hashlib.sha256("\n".join(attempt.token for attempt in attempts).encode()).hexdigest()[:32]
        agent = (python, "-P", "-u", "-m", "morphseq_dagster.cluster.pilot.agent", ATTEMPT)
        options = ("--workers", str(workers), "--limit", str(one.resources.time_s or 0))
        spec = replace(one, command=(*agent, *options), resources=needs)
        pilot = client.root.attempt((PILOTS,), key=key, number=1)
        script = write_script(spec, attempt=pilot, share=one.resources)
        client.root.begin(pilot)
        pilot.write_tasks(attempts)
        list(pool.map(lambda item: _write_task(*item, pilot=pilot, run_id=run_id), taken))
        _submit(client, pilot, script=script, needs=needs, attempts=attempts, run_id=run_id)
    job = pilot.job or ""
    return [
        None if attempt is None else JobHandle(m.spec, attempt, job) for m, attempt in zip(tasks, begun, strict=True)
    ]


def _asks(spec: JobSpec) -> tuple[object, ...]:
    return spec.resources, spec.environment, spec.requeue, spec.warn_s


def _begin(client: Client, task: PilotTask) -> Attempt | None:
    """Make the folder of a task's next attempt; None when that is not ours to make."""
    spec = task.spec
    attempt = client.root.next_attempt(spec.group, key=spec.key)
    if attempt is None:
        return None
    check_path(attempt.there)
    if not client.root.begin(attempt):
        return None
    task.on_attempt(attempt)
    return attempt


def _write_task(task: PilotTask, attempt: Attempt, *, pilot: Attempt, run_id: str) -> None:
    spec = task.spec
    write_whole(attempt.path("request.json"), spec.request, sync_entry=False)
    more = {"then": list(task.then)} if task.then else {}
    needs = spec.resources.as_dict()
    attempt.intend(resources=needs, run_id=run_id, pack=pilot.token, command=list(spec.command), **more)


def _submit(
    client: Client, pilot: Attempt, *, script: str, needs: Resources, attempts: Sequence[Attempt], run_id: str
) -> None:
    """Submit a pilot job whose tasks are written; once its number is recorded it is theirs too."""
    write_whole(pilot.path("pack.sh"), script.encode(), sync_entry=False)
    pilot.intend(resources=needs.as_dict(), run_id=run_id)
    try:
        submitted = client.scheduler.submit(f"{pilot.there}/pack.sh")
    except RejectedError as error:
        pilot.give_up()
        pilot.close(kind=JobOutcome.REJECTED, reason=error.found)
        for attempt in attempts:
            attempt.give_up()
            attempt.close(kind=JobOutcome.VOID, reason=f"its pilot job was rejected: {error.found}")
        raise
    pilot.write("job", job=submitted.job, cluster=submitted.cluster, t=time.time(), found="sbatch")
