"""Packs: many requests for one allocation, submitted by the protocol of a single job.

Holds the submission. Each request keeps its own attempt - folder, claim, records, verdict - and the pack is an attempt
too, of which there is never a second: its key is made of its members' tokens. Members name their pack in their intent,
so whoever finds one of them finds the job by the pack's name.
"""

from __future__ import annotations

import hashlib
import math
import os
import socket
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Final

from morphseq_dagster.slurm.client import Client, Live
from morphseq_dagster.slurm.errors import RejectedError
from morphseq_dagster.slurm.folder import PACKS, Attempt
from morphseq_dagster.slurm.job import MAX_CPUS, JobSpec, Resources
from morphseq_dagster.slurm.outcome import Outcome
from morphseq_dagster.slurm.pack_script import write_pack_script
from morphseq_dagster.slurm.records import write_whole
from morphseq_dagster.slurm.script import write_script

_WRITERS: Final = 16


@dataclass(frozen=True)
class Member:
    """A request for a pack.

    Parameters
    ----------
    spec
        Its job, were it alone.
    on_attempt
        Called with its attempt before anything is submitted, so that an interrupted caller can cancel.
    """

    spec: JobSpec
    on_attempt: Callable[[Attempt], None]


def is_fresh(client: Client, spec: JobSpec) -> bool:
    """Whether no attempt at a request is open, so that it may join a pack."""
    attempts = client.root.attempts(spec.group, key=spec.key)
    return not attempts or attempts[-1].is_closed


def resources_of_pack(
    one: Resources, *, members: int, workers: int, each_s: float = 60.0, time_limit: str | None = None
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
    """
    memory = None if one.memory is None else f"{workers * int(one.memory[:-1])}{one.memory[-1]}"
    if time_limit is None and one.time_s is not None:
        rounds = math.ceil(members / workers) - 1
        time_limit = str(math.ceil((one.time_s + 2 * each_s * rounds) / 60))
    return replace(one, cpus=workers * one.cpus, memory=memory, time=time_limit)


def submit_pack(
    client: Client,
    members: Sequence[Member],
    *,
    workers: int,
    each_s: float = 60.0,
    time_limit: str | None = None,
    run_id: str = "",
) -> list[Live | None]:
    """Submit requests as one job; None for those that somebody else has begun meanwhile.

    Parameters
    ----------
    client
        The client.
    members
        Requests that ask for equal resources.
    workers
        Members at work at once.
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
    if any(
        (m.spec.resources, m.spec.requeue, m.spec.warn_s) != (one.resources, one.requeue, one.warn_s) for m in members
    ):
        raise ValueError("members of a pack ask for the same")
    with ThreadPoolExecutor(min(_WRITERS, len(members))) as pool:
        begun = list(pool.map(lambda member: _begin(client, member), members))
        taken = [(m.spec, *found) for m, found in zip(members, begun, strict=True) if found is not None]
        if not taken:
            return [None] * len(members)
        workers = max(1, min(workers, len(taken), MAX_CPUS // one.resources.cpus))
        needs = resources_of_pack(
            one.resources, members=len(taken), workers=workers, each_s=each_s, time_limit=time_limit
        )
        attempts = [attempt for _, attempt, _ in taken]
        key = hashlib.sha256("\n".join(attempt.token for attempt in attempts).encode()).hexdigest()[:32]
        pack = client.root.attempt((PACKS,), key=key, number=1)
        script = write_pack_script(pack, one=one, needs=needs, workers=workers)
        client.root.begin(pack)
        pack.write_members(attempts)
        list(pool.map(lambda item: _write_member(*item, pack=pack, run_id=run_id), taken))
        _submit(client, pack, script=script, needs=needs, attempts=attempts, run_id=run_id)
    lives = {attempt: Live(spec, attempt, pack.job or "") for spec, attempt, _ in taken}
    return [None if found is None else lives[found[0]] for found in begun]


def _begin(client: Client, member: Member) -> tuple[Attempt, str] | None:
    """Make the folder of a member's next attempt; None when that is not ours to make."""
    spec = member.spec
    attempts = client.root.attempts(spec.group, key=spec.key)
    if attempts and not attempts[-1].is_closed:
        return None
    number = attempts[-1].number + 1 if attempts else 1
    attempt = client.root.attempt(spec.group, key=spec.key, number=number)
    script = write_script(spec, attempt=attempt)
    if not client.root.begin(attempt):
        return None
    member.on_attempt(attempt)
    return attempt, script


def _write_member(spec: JobSpec, attempt: Attempt, script: str, *, pack: Attempt, run_id: str) -> None:
    write_whole(attempt.path("request.json"), spec.request, sync_entry=False)
    write_whole(attempt.path("job.sh"), script.encode(), sync_entry=False)
    _write_intent(attempt, needs=spec.resources, run_id=run_id, pack=pack.token)


def _write_intent(attempt: Attempt, *, needs: Resources, run_id: str, **more: object) -> None:
    attempt.write(
        "intent",
        t=time.time(),
        host=socket.gethostname(),
        pid=os.getpid(),
        run_id=run_id,
        token=attempt.token,
        resources=needs.as_dict(),
        **more,
    )


def _submit(
    client: Client, pack: Attempt, *, script: str, needs: Resources, attempts: Sequence[Attempt], run_id: str
) -> None:
    """Submit a pack whose members are written; its number is theirs from the moment that it is written down."""
    write_whole(pack.path("pack.sh"), script.encode(), sync_entry=False)
    _write_intent(pack, needs=needs, run_id=run_id)
    try:
        submitted = client.scheduler.submit(f"{pack.there}/pack.sh")
    except RejectedError as error:
        pack.give_up()
        pack.close(kind=Outcome.REJECTED.value, reason=error.found, state="", job="")
        for attempt in attempts:
            attempt.give_up()
            attempt.close(kind=Outcome.VOID.value, reason=f"its pack was rejected: {error.found}", state="", job="")
        raise
    pack.write("job", job=submitted.job, cluster=submitted.cluster, t=time.time(), found="sbatch")
