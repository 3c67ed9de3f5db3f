"""What the tests of the assets share: an instance, and a data root of the toy pipeline."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from tests.support.toy_runs import Runs


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


@pytest.fixture
def runs(tmp_path: Path, instance: dg.DagsterInstance) -> Runs:
    runs = Runs(tmp_path / "root", instance)
    runs.words(A01="fish", A02="fin")
    return runs
