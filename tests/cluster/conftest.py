"""What the tests of the cluster share: data roots, settings of small jobs, a bench, commands that answer at will."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from morphseq_dagster.cluster.commands import Scheduler
from morphseq_dagster.cluster.connection import make_transport
from morphseq_dagster.cluster.transports.local import LocalTransport
from morphseq_dagster.engine.workspace import Workspace
from morphseq_dagster.settings.slurm import SlurmSettings
from morphseq_dagster.testing.chain import open_toy, write_words
from morphseq_dagster.testing.relay import RELAY_PIPELINE
from tests.support.scripted_commands import ScriptedCommands
from tests.support.slurm_bench import Bench, wait_for
from tests.support.slurm_cluster import LocalCluster

EXPERIMENT = "20240418"


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    workspace = open_toy(tmp_path / "root")
    write_words(workspace.layout, EXPERIMENT, words={"A01": "fish", "A02": "fin"})
    return workspace


@pytest.fixture
def relay(tmp_path: Path) -> Workspace:
    """Data root of the relay pipeline, empty."""
    return Workspace(tmp_path / "root", RELAY_PIPELINE)


@pytest.fixture
def slurm(cluster: LocalCluster) -> SlurmSettings:
    return cluster.settings(resources={"memory": "200M", "time": 5})


@pytest.fixture(
    scope="session",
    params=["local", *(pytest.param(name, marks=pytest.mark.slow) for name in ("ssh", "dagster_slurm"))],
)
def make_bench(request: pytest.FixtureRequest, cluster: LocalCluster) -> Iterator[Callable[[Path], Bench]]:
    """The whole suite over each transport; what must not wait for `--run-slow` is in `test_transports`."""
    transport = make_transport(cluster.settings(request.param))
    yield lambda root: Bench(cluster, root, cluster.client(root / "jobs", transport=transport), request.param)
    transport.close()


@pytest.fixture
def bench(make_bench: Callable[[Path], Bench], tmp_path: Path) -> Iterator[Bench]:
    found = make_bench(tmp_path)
    before = set(found.queued())
    yield found
    left = set(found.queued()) - before
    if left:
        found.cluster.ask("scancel", *left)
        wait_for(lambda: not set(found.queued()) & left)


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ScriptedCommands:
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return ScriptedCommands(folder)


@pytest.fixture
def scheduler(fake: ScriptedCommands) -> Scheduler:
    del fake
    return Scheduler(LocalTransport(), timeout_s=60)
