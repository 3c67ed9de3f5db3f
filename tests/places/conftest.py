"""What the tests of places share: a data root of the toy registry with one experiment, settings of small jobs."""

from __future__ import annotations

from pathlib import Path

import pytest

from morphseq_dagster.settings import SlurmSettings
from morphseq_dagster.steps.workspace import Workspace
from morphseq_dagster.testing.chain import open_toy, write_words
from morphseq_dagster.testing.slurm_cluster import LocalCluster

EXPERIMENT = "20240418"


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    workspace = open_toy(tmp_path / "root")
    write_words(workspace.layout, EXPERIMENT, words={"A01": "fish", "A02": "fin"})
    return workspace


@pytest.fixture
def slurm(cluster: LocalCluster) -> SlurmSettings:
    return cluster.settings(resources={"memory": "200M", "time": 5})
