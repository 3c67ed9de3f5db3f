"""What the tests of the second workflow share: a data root of its own with two conditions."""

from __future__ import annotations

from pathlib import Path

import pytest

from morphseq_dagster.engine.workspace import Workspace
from morphseq_dagster.testing.training import TRAINING, conditions_file, observations_file

CNN, MLP = "cnn|seed=3", "mlp|seed=3"


def make_study(root: Path) -> Workspace:
    workspace = Workspace(root, TRAINING)
    conditions_file(workspace.layout).parent.mkdir(parents=True)
    conditions_file(workspace.layout).write_text(f"{CNN}\n{MLP}\n")
    observations_file(workspace.layout, CNN).write_text("".join(f"o{number}\n" for number in range(20)))
    return workspace


@pytest.fixture
def study(tmp_path: Path) -> Workspace:
    return make_study(tmp_path / "study root")
