"""What the tests of places share: data roots of the toy and the relay registry, settings of small jobs."""

from __future__ import annotations

from pathlib import Path

import pytest

from morphseq_dagster.settings import SlurmSettings
from morphseq_dagster.steps.workspace import Workspace
from morphseq_dagster.testing.chain import open_toy, write_words
from morphseq_dagster.testing.relay import RELAY_REGISTRY
from morphseq_dagster.testing.slurm_cluster import LocalCluster

EXPERIMENT = "20240418"


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    workspace = open_toy(tmp_path / "root")
    write_words(workspace.layout, EXPERIMENT, words={"A01": "fish", "A02": "fin"})
    return workspace


@pytest.fixture
def relay(tmp_path: Path) -> Workspace:
    """Data root of the relay registry, empty."""
    return Workspace(tmp_path / "root", RELAY_REGISTRY)


@pytest.fixture
def slurm(cluster: LocalCluster) -> SlurmSettings:
    return cluster.settings(resources={"memory": "200M", "time": 5})
