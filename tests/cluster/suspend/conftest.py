"""What the tests of suspending share: a cluster whose jobs and answers can be held back, and a live installation."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from morphseq_dagster.settings.machine import PlacesSettings
from tests.support.installation import Installation, suspending_settings
from tests.support.slurm_cluster import LocalCluster
from tests.support.slurm_gate import Gate


@pytest.fixture(scope="session")
def one_gate(cluster: LocalCluster, tmp_path_factory: pytest.TempPathFactory) -> Gate:
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
    found = Installation(folder, suspending_settings(), PlacesSettings.model_validate(places))
    found.start()
    try:
        yield found
    finally:
        found.stop(kill=True)
