"""Trial of a cluster for `morphseq doctor --slurm --live`: one trivial job per partition, through the whole protocol.

The jobs' folders are apart from those of steps, and gone afterwards; a job that has not ended within the limit is
cancelled. What needs no job is checked in `cluster_checks.py`.
"""

from __future__ import annotations

import contextlib
import hashlib
import secrets
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from morphseq_dagster.cli.checks import CheckResult, ok, problem
from morphseq_dagster.cli.cluster_checks import expected_environment, judge_environment, judge_skew, named_partitions
from morphseq_dagster.cluster.attempt_folder import JobRoot
from morphseq_dagster.cluster.client import Client
from morphseq_dagster.cluster.commands import Scheduler
from morphseq_dagster.cluster.connection import default_resources, make_transport
from morphseq_dagster.cluster.errors import RejectedError, UnreachableError
from morphseq_dagster.cluster.job import ATTEMPT, JobSpec
from morphseq_dagster.cluster.job_handle import JobHandle, JobVerdict, Timeouts
from morphseq_dagster.cluster.outcome import JobOutcome
from morphseq_dagster.cluster.poller import Poller, Watch
from morphseq_dagster.cluster.probe import Probe
from morphseq_dagster.cluster.usage import collect_facts
from morphseq_dagster.engine.layout import Layout
from morphseq_dagster.engine.storage.atomic_io import make_folder, write_durably
from morphseq_dagster.errors import MorphseqError
from morphseq_dagster.settings.slurm import ResourceSettings, SlurmSettings

LIMIT_S: Final = 120.0
_MEMORY: Final = "500M"
_ANSWER: Final = "probe.json"
_ADVICE: Final = {
    JobOutcome.CONFIG: "correct places.slurm.python and preamble; the nodes must see them and the data root",
    JobOutcome.OOM: "the environment alone takes more than the trial's memory: see the log",
    JobOutcome.CANCELLED: "somebody cancelled it: morphseq doctor --slurm --live",
}


@dataclass(frozen=True)
class _Trial:
    """One job on its way."""

    partition: str
    live: JobHandle
    watch: Watch


def try_cluster(settings: SlurmSettings, *, layout: Layout, limit_s: float = LIMIT_S) -> Iterator[CheckResult]:
    """Submit a trivial job to every partition that the settings name, or to the default one, and judge each."""
    token = secrets.token_hex(8)
    folder = layout.private / f"doctor.{token}"
    there = f"{(settings.data_root or str(layout.data_root)).rstrip('/')}/{layout.relative(folder)}"
    patience = Timeouts(grace_s=settings.grace_s, lost_s=settings.lost_s, settle_s=settings.settle_s)
    scheduler = Scheduler(make_transport(settings), folder=settings.commands)
    client = Client(scheduler, root=JobRoot(folder, there=there), timeouts=patience)
    poller = Poller(client)
    trials: list[_Trial] = []
    try:
        make_folder(folder)
        write_durably(folder / "marker", token.encode())
        for partition in named_partitions(settings) or ("",):
            spec = _describe(settings, partition=partition, token=token, marker=f"{there}/marker")
            try:
                live = client.ensure(spec, done=lambda: False, run_id="doctor")
            except RejectedError as error:
                yield problem(f"{_name(partition)}: rejected: {error.found}", "correct places.slurm; sinfo")
                continue
            if isinstance(live, JobHandle):
                answer = live.attempt.path(_ANSWER)
                trials.append(_Trial(partition, live, poller.watch(live, done=answer.is_file)))
        deadline = time.monotonic() + limit_s
        for trial in trials:
            verdict = trial.watch.wait(max(0.0, deadline - time.monotonic()))
            if verdict is None:
                yield _judge_waiting(trial, limit_s=limit_s)
            else:
                yield from _judge(trial, verdict=verdict, settings=settings, layout=layout, token=token)
    except UnreachableError as error:
        yield problem(f"the cluster does not answer: {error.found}", "scontrol ping; try again")
    except MorphseqError as error:
        yield problem(f"no job could be submitted: {error.found}", error.remedy)
    finally:
        _clear(client, poller=poller, folder=folder)


def _describe(settings: SlurmSettings, *, partition: str, token: str, marker: str) -> JobSpec:
    """Describe the job of a partition: the account and the needs of the section that names it, but small."""
    base = settings.resources.over(default_resources(settings))
    section = next((s for s in _sections(settings) if partition in (s.partition or "").split(",")), None)
    needs = base if section is None else section.over(base)
    small = replace(needs, partition=partition or needs.partition, cpus=1, memory=needs.memory and _MEMORY, time="5")
    command = (settings.python, "-P", "-m", "morphseq_dagster.cluster.probe", marker, f"{ATTEMPT}/{_ANSWER}")
    return JobSpec(
        group=("doctor", partition or "default"),
        key=hashlib.sha256(f"{token} {partition}".encode()).hexdigest(),
        command=command,
        resources=small,
        environment=settings.surroundings(),
        requeue=False,
    )


def _sections(settings: SlurmSettings) -> list[ResourceSettings]:
    own = [part for e in settings.experiments.values() for part in (e.resources, *e.steps.values())]
    return [settings.resources, *settings.steps.values(), *own]


def _judge(
    trial: _Trial, *, verdict: JobVerdict, settings: SlurmSettings, layout: Layout, token: str
) -> Iterator[CheckResult]:
    """Judge how a trial ended and what its node saw."""
    name = _name(trial.partition)
    if verdict.outcome is not JobOutcome.DONE:
        lines = verdict.last_lines(3)
        text = f"{name}: job {verdict.job} ended as {verdict.outcome} ({verdict.words})" + (
            f": {lines}" if lines else ""
        )
        yield problem(text, _ADVICE.get(verdict.outcome, "read the words of the log above"))
        return
    facts = collect_facts(trial.live.attempt, verdict=verdict)
    waited = f"{facts['queue_s']:.1f} s" if "queue_s" in facts else "an unknown time"
    node = facts.get("node", "an unnamed node")
    yield ok(f"{name}: job {facts['job']} waited {waited} and ran on {node}")
    try:
        probe = Probe.model_validate_json(trial.live.attempt.path(_ANSWER).read_bytes())
    except ValidationError:
        yield problem(f"{name}: the node has another release", "make install there, of the same release")
        return
    if probe.marker == token:
        yield ok(f"{name}: {probe.host} sees the data root")
    else:
        found = "no file" if probe.marker is None else "another file"
        text = f"{name}: {probe.host} finds {found} where the data root has one"
        yield problem(text, "mount the data root on the nodes; correct places.slurm.data_root")
    intent = trial.live.attempt.record("intent") or {}
    early, late = probe.at - float(intent.get("t", probe.at)), probe.at - time.time()
    yield judge_skew(min(0.0, early) + max(0.0, late), whose=f"{name}: the clock of {probe.host}")
    try:
        expected = expected_environment(settings, layout=layout)
    except MorphseqError as error:
        yield problem(f"{name}: {error.found}", error.remedy)
        return
    policy = settings.environment
    yield judge_environment(probe.environment, expected=expected, where=f"on {probe.host} ({name})", policy=policy)


def _judge_waiting(trial: _Trial, *, limit_s: float) -> CheckResult:
    status = trial.watch.status
    said = " ".join(part for part in (status.state, f"({status.reason})" if status.reason else "") if part)
    text = f"{_name(trial.partition)}: job {trial.live.job} is {said or 'of unknown state'} after {limit_s:.0f} s"
    command = f"wait and try again, with a longer --limit; squeue -p {trial.partition}".removesuffix(" -p ")
    return problem(f"{text}; it is cancelled", command)


def _clear(client: Client, *, poller: Poller, folder: Path) -> None:
    """Cancel what is still there, remove the folders and log out."""
    poller.close()
    left = [attempt for _, _, attempt in client.root.open_attempts()]
    with contextlib.suppress(UnreachableError):
        if left:
            client.cancel(left, why="the trial is over")
            client.await_cancelled(left)
    if all(attempt.is_closed for attempt in left):  # else a job that comes late must find the wish
        shutil.rmtree(folder, ignore_errors=True)
    client.scheduler.close()


def _name(partition: str) -> str:
    return f"partition {partition}" if partition else "default partition"
