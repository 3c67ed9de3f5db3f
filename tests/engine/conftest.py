"""What the tests of the engine share: a data root of the toy pipeline with one experiment."""

from __future__ import annotations

from pathlib import Path

import pytest

from morphseq_dagster.engine.workspace import Workspace
from morphseq_dagster.testing.chain import open_toy, write_words

EXPERIMENT = "20240418"


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    workspace = open_toy(tmp_path / "root")
    write_words(workspace.layout, EXPERIMENT, words={"A01": "fish", "A02": "fin"})
    return workspace
