"""A data root of toy experiments, run without Dagster."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

import pytest

from morphseq_dagster.engine.workspace import Workspace
from morphseq_dagster.errors import MorphseqError
from morphseq_dagster.morphseq.paths import raw_folder
from morphseq_dagster.testing.chain import open_toy, run_chain, write_words

WORDS = {"A01": "fish", "A02": "egg"}


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return open_toy(tmp_path / "root")


@pytest.fixture
def add(workspace: Workspace) -> Callable[..., None]:
    """Adds an experiment: its raw folder, and its words unless there are to be none."""

    def add(experiment: str, words: dict[str, str] | None = WORDS) -> None:
        raw_folder(workspace.layout, "Frames", experiment=experiment).mkdir(parents=True, exist_ok=True)
        if words is not None:
            write_words(workspace.layout, experiment, words=words)

    return add


@pytest.fixture
def run(workspace: Workspace) -> Callable[[str], None]:
    """Runs an experiment; a failing step leaves its failure record and ends the run."""

    def run(experiment: str) -> None:
        with contextlib.suppress(MorphseqError):
            run_chain(workspace, experiment)

    return run
