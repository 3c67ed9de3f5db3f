"""What the tests of parking share: a cluster whose jobs and answers can be held back, and a live installation."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from morphseq_dagster.settings import PlacesSettings
from morphseq_dagster.testing.installation import Installation, parking_settings
from morphseq_dagster.testing.slurm_cluster import start_cluster
from morphseq_dagster.testing.slurm_gate import Gate


@pytest.fixture(scope="session")
def one_gate(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Gate:
    script = shared / "slurm" / "local-slurm.sh"
    if not script.is_file():
        pytest.skip(f"no Slurm: {script} is not there")
    cluster = start_cluster(script, cpus="16", killwait="2", overmemorykill="1")
    os.environ["SLURM_CONF"] = cluster.environment["SLURM_CONF"]
    return Gate(cluster, tmp_path_factory.mktemp("commands"))


@pytest.fixture
def gate(one_gate: Gate) -> Iterator[Gate]:
    yield one_gate
    one_gate.open()


@pytest.fixture(scope="module")
def live(one_gate: Gate, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """Web server, daemon and code server; step `letters` runs at the cluster, but for experiment 20200101."""
    here = {"20200101": {"letters": "process"}}
    places = {"letters": "slurm", "experiments": here, "slurm": one_gate.settings()}
    folder = tmp_path_factory.mktemp("live") / "installation"
    found = Installation(folder, parking_settings(), PlacesSettings.model_validate(places))
    found.start()
    try:
        yield found
    finally:
        found.stop(kill=True)
