"""Bench for tests of the Slurm client: jobs whose executions can be counted, on a cluster of this machine.

It has one client with its root, and counts executions per request and rows of accounting per job.
"""

from __future__ import annotations

import contextlib
import hashlib
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from morphseq_dagster.cluster.client import Client
from morphseq_dagster.cluster.job import JobSpec
from morphseq_dagster.cluster.job_handle import AlreadyDone, JobHandle, JobVerdict
from morphseq_dagster.cluster.poller import Poller
from morphseq_dagster.cluster.transports.protocol import Transport
from morphseq_dagster.settings.job_values import Resources
from morphseq_dagster.settings.slurm import SlurmSettings
from tests.support.slurm_cluster import LocalCluster


@dataclass
class Bench:
    """One client, its root, and jobs whose executions can be counted."""

    cluster: LocalCluster
    root: Path
    client: Client
    transport: str = "local"

    @property
    def settings(self) -> SlurmSettings:
        """Settings of the cluster, over the bench's transport."""
        return self.cluster.settings(self.transport)

    def spec(self, name: str, body: str = "", *, resources: Resources | None = None, **more: object) -> JobSpec:
        """A job that adds a line to `{name}.ran`, runs a body and makes `{name}.result`, unless the body fails."""
        script = self.root / f"{name}.sh"
        script.write_text(
            f"#!/bin/bash\nset -e\necho $SLURM_JOB_ID >> {self.root}/{name}.ran\n{body}\n"
            f"echo made > {self.root}/{name}.part && mv {self.root}/{name}.part {self.root}/{name}.result\n"
        )
        return JobSpec(
            group=("step", name),
            key=hashlib.sha256(name.encode()).hexdigest(),
            command=("bash", str(script)),
            resources=resources or Resources(memory="64M", time="5"),
            **more,  # type: ignore[arg-type]
        )

    def done(self, name: str) -> Callable[[], bool]:
        """Test of a job's result."""
        return (self.root / f"{name}.result").is_file

    def executions(self, name: str) -> int:
        """Count how often a job's command has begun."""
        path = self.root / f"{name}.ran"
        return len(path.read_text().splitlines()) if path.exists() else 0

    def ensure(self, spec: JobSpec, *, run_id: str = "run") -> JobHandle | AlreadyDone:
        """Ensure a job; its request is done when its result is there."""
        return self.client.ensure(spec, done=self.done(spec.group[1]), run_id=run_id)

    def finish(self, live: JobHandle | AlreadyDone, *, timeout_s: float = 180) -> JobVerdict:
        """Watch a job to its verdict."""
        live = _live(live)
        poller = Poller(self.client)
        try:
            verdict = poller.watch(live, done=self.done(live.spec.group[1])).wait(timeout_s)
        finally:
            poller.close()
        if verdict is None:
            raise TimeoutError(f"no verdict within {timeout_s} s")
        return verdict

    def run(self, spec: JobSpec, *, timeout_s: float = 180) -> JobVerdict:
        """Ensure a job and watch it to its verdict."""
        return self.finish(self.ensure(spec), timeout_s=timeout_s)

    def until_running(self, live: JobHandle | AlreadyDone, *, timeout_s: float = 120) -> None:
        """Wait for a job to begin, and its command: the start record comes first."""
        live = _live(live)
        wait_for(
            lambda: live.attempt.record("start") is not None and self.executions(live.spec.group[1]) > 0,
            timeout_s=timeout_s,
        )

    def start_again(self, live: JobHandle | AlreadyDone, *, timeout_s: float = 120) -> None:
        """Let a job that the scheduler holds back after its first life start now; of itself it waits two minutes.

        A node that is told to end a job refuses each start of the same second, for good: it cannot tell the new life
        from the old one. Hence not before the next second after it has let go of the first life.
        """
        job = _live(live).job
        question = ("squeue", "-h", "-j", job, "-o", "%T")
        wait_for(lambda: self.cluster.ask(*question).strip() == "PENDING", timeout_s=timeout_s)
        later = int(time.time()) + 2
        wait_for(lambda: time.time() >= later)
        self.cluster.ask("scontrol", "update", f"jobid={job}", "StartTime=now")

    def rows_of(self, token: str) -> int:
        """Rows of accounting that bear a token, doubles included."""
        out = self.cluster.ask("sacct", "-n", "-P", "-X", "-D", "-S", "now-3600", "--name", token, "-o", "JobIDRaw")
        return len(set(out.split()))

    def flaws(self, specs: Sequence[JobSpec]) -> list[str]:
        """Say what is wrong with requests that are done: each ran once, one row per job, no job, no half file left."""
        wait_for(lambda: not self._left(specs))
        attempts = {a.token: a for spec in specs for a in self.client.root.attempts(spec.group, key=spec.key)}
        told = self.cluster.ask("sacct", "-n", "-P", "-X", "-D", "-S", "now-7200", "-o", "JobIDRaw,JobName")
        rows = Counter(line.partition("|")[2] for line in set(told.split()))
        found = [f"{token}: {rows[token]} rows" for token in attempts if rows[token] > 1]
        for spec in specs:
            name = spec.group[1]
            if (count := self.executions(name)) != 1:
                found.append(f"{name}: {count} executions")
            if not self.done(name)():
                found.append(f"{name}: no result")
        for token, attempt in attempts.items():
            records = [path for path in attempt.folder.glob("[!.]*.json") if path.name != "request.json"]
            found += [f"{path}: half a record" for path in records if attempt.record(path.stem) is None]
            closed = attempt.record("closed")
            if closed is not None and closed["kind"] not in ("done", "void"):
                found.append(f"{token}: closed as {closed['kind']}")
        return found + [f"{path}: half a file" for path in self.root.glob("*.part")]

    def _left(self, specs: Sequence[JobSpec]) -> set[str]:
        tokens = {a.token for spec in specs for a in self.client.root.attempts(spec.group, key=spec.key)}
        return tokens & set(self.cluster.ask("squeue", "-h", "-o", "%j").split())

    def queued(self) -> list[str]:
        """Numbers of all jobs of the cluster."""
        return self.cluster.ask("squeue", "-h", "-o", "%i").split()

    def with_transport(self, transport: Transport) -> Bench:
        """Make the same bench over another transport."""
        client = self.cluster.client(self.root / "jobs", transport=transport)
        return Bench(self.cluster, self.root, client, self.transport)


def children() -> set[int]:
    """Processes that this one started and that are there."""
    return {int(pid) for task in Path("/proc/self/task").iterdir() for pid in (task / "children").read_text().split()}


def wait_for(condition: Callable[[], bool], *, timeout_s: float = 120) -> None:
    """Wait for a condition; the limit is for what hangs, and no claim about how long anything takes."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not so within {timeout_s} s")
        time.sleep(0.05)


@contextlib.contextmanager
def touching(path: Path, *, when: Callable[[], bool]) -> Iterator[None]:
    """Make a file as soon as a condition holds while the block is at work, and at its end in any case."""
    over = threading.Event()

    def touch() -> None:
        while not over.is_set() and not when():
            over.wait(0.05)
        path.touch()

    watcher = threading.Thread(target=touch)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()


def _live(found: JobHandle | AlreadyDone) -> JobHandle:
    if isinstance(found, AlreadyDone):
        raise TypeError("the request is done already")
    return found
