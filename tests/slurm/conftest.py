"""What the tests of the Slurm client share: a cluster of this machine, a bench that counts executions."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from morphseq_dagster.slurm.client import Client, Done, Live, Verdict
from morphseq_dagster.slurm.job import JobSpec, Resources
from morphseq_dagster.slurm.poller import Poller
from morphseq_dagster.slurm.transport import Transport
from morphseq_dagster.testing.slurm_cluster import LocalCluster, start_cluster


@dataclass
class Bench:
    """One client, its root, and jobs whose executions can be counted."""

    cluster: LocalCluster
    root: Path
    client: Client

    def spec(self, name: str, body: str = "", *, resources: Resources | None = None, **more: object) -> JobSpec:
        """A job that adds a line to `{name}.ran`, runs a body and makes `{name}.result`; `exit` before it fails."""
        script = self.root / f"{name}.sh"
        script.write_text(
            f"#!/bin/bash\necho $SLURM_JOB_ID >> {self.root}/{name}.ran\n{body}\n"
            f"echo made > {self.root}/{name}.part && mv {self.root}/{name}.part {self.root}/{name}.result\n"
        )
        return JobSpec(
            group=("step", name),
            key=hashlib.sha256(name.encode()).hexdigest(),
            command=("bash", str(script)),
            resources=resources or Resources(memory="64M", time="5"),
            **more,  # type: ignore[arg-type]
        )

    def done(self, name: str):
        return (self.root / f"{name}.result").is_file

    def executions(self, name: str) -> int:
        path = self.root / f"{name}.ran"
        return len(path.read_text().splitlines()) if path.exists() else 0

    def ensure(self, spec: JobSpec, *, run_id: str = "run") -> Live | Done:
        return self.client.ensure(spec, done=self.done(spec.group[1]), run_id=run_id)

    def finish(self, live: Live | Done, *, timeout_s: float = 60) -> Verdict:
        assert isinstance(live, Live)
        poller = Poller(self.client)
        try:
            verdict = poller.watch(live, done=self.done(live.spec.group[1])).wait(timeout_s)
        finally:
            poller.close()
        assert verdict is not None, f"no verdict within {timeout_s} s"
        return verdict

    def run(self, spec: JobSpec, *, timeout_s: float = 60) -> Verdict:
        return self.finish(self.ensure(spec), timeout_s=timeout_s)

    def until_running(self, live: Live | Done, *, timeout_s: float = 30) -> None:
        assert isinstance(live, Live)
        wait_for(lambda: live.attempt.record("start") is not None, timeout_s=timeout_s)

    def rows_of(self, token: str) -> int:
        """Rows of accounting that bear a token, doubles included."""
        out = self.cluster.ask("sacct", "-n", "-P", "-X", "-D", "-S", "now-3600", "--name", token, "-o", "JobIDRaw")
        return len(set(out.split()))

    def queued(self) -> list[str]:
        return self.cluster.ask("squeue", "-h", "-o", "%i").split()

    def with_transport(self, transport: Transport) -> Bench:
        return Bench(self.cluster, self.root, self.cluster.client(self.root / "jobs", transport=transport))


def wait_for(condition, *, timeout_s: float = 30) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not so within {timeout_s} s"
        time.sleep(0.05)


@pytest.fixture(scope="session")
def cluster(shared: Path) -> LocalCluster:
    script = shared / "slurm" / "local-slurm.sh"
    if not script.is_file():
        pytest.skip(f"no Slurm: {script} is not there")
    found = start_cluster(script, cpus="16", killwait="2", overmemorykill="1")
    os.environ["SLURM_CONF"] = found.environment["SLURM_CONF"]
    return found


@pytest.fixture(scope="session")
def make_bench(cluster: LocalCluster) -> Callable[[Path], Bench]:
    return lambda root: Bench(cluster, root, cluster.client(root / "jobs"))


@pytest.fixture
def bench(make_bench: Callable[[Path], Bench], tmp_path: Path) -> Iterator[Bench]:
    found = make_bench(tmp_path)
    before = set(found.queued())
    yield found
    left = set(found.queued()) - before
    if left:
        found.cluster.ask("scancel", *left)
        wait_for(lambda: not set(found.queued()) & left)
