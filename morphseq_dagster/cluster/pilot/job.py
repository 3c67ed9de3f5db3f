"""Packs: several requests for one allocation, submitted by the protocol of a single job.

Holds the submission. Each request keeps its own attempt - folder, claim, records, verdict - and the pack is an attempt
too, of which there is never a second: its key is made of its members' tokens. Members name their pack in their intent,
so whoever finds one of them finds the job by the pack's name. The job is the program `foreman`. A member may be
followed by others (`succession`), so a pack of one is the job that carries a whole chain.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Final

from morphseq_dagster.cluster.attempt_folder import PACKS, Attempt
from morphseq_dagster.cluster.client import Client
from morphseq_dagster.cluster.errors import RejectedError
from morphseq_dagster.cluster.job import ATTEMPT, JobSpec
from morphseq_dagster.cluster.job_handle import JobHandle
from morphseq_dagster.cluster.outcome import JobOutcome
from morphseq_dagster.cluster.records import write_whole
from morphseq_dagster.cluster.script import write_script
from morphseq_dagster.settings.job_values import MAX_CPUS, Resources, check_path

_WRITERS: Final = 16


@dataclass(frozen=True)
class PilotTask:
    """A request for a pack.

    Parameters
    ----------
    spec
        Its job, were it alone.
    on_attempt
        Called with its attempt before anything is submitted, so that an interrupted caller can cancel.
    then
        What may follow on it in the same allocation, in words that its command's module understands.
    """

    spec: JobSpec
    on_attempt: Callable[[Attempt], None]
    then: tuple[str, ...] = ()


def is_fresh(client: Client, spec: JobSpec) -> bool:
    """Whether no attempt at a request is open, so that it may join a pack."""
    return client.root.next_attempt(spec.group, key=spec.key) is not None


def resources_of_pack(
    one: Resources,
    *,
    members: int,
    workers: int,
    each_s: float = 60.0,
    time_limit: str | None = None,
    links: int = 1,
) -> Resources:
    """Ask for several members at once and, of time, for all of them.

    Parameters
    ----------
    one
        What a member asks for.
    members, workers
        How many there are, and how many are at work at once.
    each_s
        What a member is expected to take, in seconds; it is counted twice.
    time_limit
        Limit of the allocation; unless given that of one member, and `each_s` twice for each further round. None where
        members have none.
    links
        Requests that follow one another in the longest chain, the first one included: each may need its whole time.
    """
    memory = None if one.memory is None else f"{workers * int(one.memory[:-1])}{one.memory[-1]}"
    if time_limit is None and one.time_s is not None:
        rounds = math.ceil(members / workers) - 1
        time_limit = str(math.ceil(links * (one.time_s + 2 * each_s * rounds) / 60))
    return replace(one, cpus=workers * one.cpus, memory=memory, time=time_limit)


def submit_pack(
    client: Client,
    members: Sequence[PilotTask],
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
    members
        Requests that ask for equal resources.
    workers
        Members at work at once.
    python
        Python of the nodes; members whose command is a module of it share one start.
    each_s, time_limit
        As in `resources_of_pack`.
    run_id
        On whose behalf.

    Raises
    ------
    UnreachableError
        Nobody answers: `Client.ensure` of each member finds the job, or gives its attempt up.
    RejectedError
        The scheduler does not take the job; the attempts are closed.
    PermanentError
        The job cannot be written as a safe script.
    """
    one = members[0].spec
    if any(_asks(member.spec) != _asks(one) for member in members):
        raise ValueError("members of a pack ask for the same")
    with ThreadPoolExecutor(min(_WRITERS, len(members))) as pool:
        begun = list(pool.map(lambda member: _begin(client, member), members))
        taken = [(m, attempt) for m, attempt in zip(members, begun, strict=True) if attempt is not None]
        if not taken:
            return [None] * len(members)
        workers = max(1, min(workers, len(taken), MAX_CPUS // one.resources.cpus))
        needs = resources_of_pack(
            one.resources,
            members=len(taken),
            workers=workers,
            each_s=each_s,
            time_limit=time_limit,
            links=1 + max(len(member.then) for member in members),
        )
        attempts = [attempt for _, attempt in taken]
        key = hashlib.sha256("\n".join(attempt.token for attempt in attempts).encode()).hexdigest()[:32]
        foreman = (python, "-P", "-u", "-m", "morphseq_dagster.cluster.pilot.agent", ATTEMPT)
        told = ("--workers", str(workers), "--limit", str(one.resources.time_s or 0))
        spec = replace(one, command=(*foreman, *told), resources=needs)
        pack = client.root.attempt((PACKS,), key=key, number=1)
        script = write_script(spec, attempt=pack, share=one.resources)
        client.root.begin(pack)
        pack.write_members(attempts)
        list(pool.map(lambda item: _write_member(*item, pack=pack, run_id=run_id), taken))
        _submit(client, pack, script=script, needs=needs, attempts=attempts, run_id=run_id)
    job = pack.job or ""
    return [
        None if attempt is None else JobHandle(m.spec, attempt, job) for m, attempt in zip(members, begun, strict=True)
    ]


def _asks(spec: JobSpec) -> tuple[object, ...]:
    return spec.resources, spec.environment, spec.requeue, spec.warn_s


def _begin(client: Client, member: PilotTask) -> Attempt | None:
    """Make the folder of a member's next attempt; None when that is not ours to make."""
    spec = member.spec
    attempt = client.root.next_attempt(spec.group, key=spec.key)
    if attempt is None:
        return None
    check_path(attempt.there)
    if not client.root.begin(attempt):
        return None
    member.on_attempt(attempt)
    return attempt


def _write_member(member: PilotTask, attempt: Attempt, *, pack: Attempt, run_id: str) -> None:
    spec = member.spec
    write_whole(attempt.path("request.json"), spec.request, sync_entry=False)
    more = {"then": list(member.then)} if member.then else {}
    needs = spec.resources.as_dict()
    attempt.intend(resources=needs, run_id=run_id, pack=pack.token, command=list(spec.command), **more)


def _submit(
    client: Client, pack: Attempt, *, script: str, needs: Resources, attempts: Sequence[Attempt], run_id: str
) -> None:
    """Submit a pack whose members are written; its number is theirs from the moment that it is written down."""
    write_whole(pack.path("pack.sh"), script.encode(), sync_entry=False)
    pack.intend(resources=needs.as_dict(), run_id=run_id)
    try:
        submitted = client.scheduler.submit(f"{pack.there}/pack.sh")
    except RejectedError as error:
        pack.give_up()
        pack.close(kind=JobOutcome.REJECTED.value, reason=error.found, state="", job="")
        for attempt in attempts:
            attempt.give_up()
            attempt.close(kind=JobOutcome.VOID.value, reason=f"its pack was rejected: {error.found}", state="", job="")
        raise
    pack.write("job", job=submitted.job, cluster=submitted.cluster, t=time.time(), found="sbatch")
