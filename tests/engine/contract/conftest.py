"""What the tests of steps share: a data root of the toy pipeline, a bench for one step."""

from __future__ import annotations

from pathlib import Path

import pytest

from morphseq_dagster.engine.workspace import Workspace
from morphseq_dagster.testing.chain import open_toy
from morphseq_dagster.testing.step_bench import StepBench


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return open_toy(tmp_path / "root")


@pytest.fixture
def bench(tmp_path: Path) -> StepBench:
    return StepBench(tmp_path / "bench", experiment="20250529_ctrl")
