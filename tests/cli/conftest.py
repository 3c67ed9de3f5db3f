"""The command line on a data root of toy experiments, with a Dagster home of its own."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import dagster as dg
import pytest

import morphseq_dagster
from morphseq_dagster.cli import main
from morphseq_dagster.engine.workspace import Workspace
from morphseq_dagster.morphseq.paths import raw_folder
from morphseq_dagster.testing.chain import TOY, open_toy, write_words

TEMPLATE = Path(morphseq_dagster.__file__).parent / "templates" / "dagster.yaml"


@dataclass(frozen=True)
class Said:
    code: int
    out: str
    err: str


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    home = tmp_path / "home"
    home.mkdir()
    shutil.copy(TEMPLATE, home)
    (tmp_path / "root").mkdir()
    monkeypatch.setenv("DAGSTER_HOME", str(home))
    monkeypatch.setenv("MORPHSEQ_DATA_ROOT", str(tmp_path / "root"))
    monkeypatch.setenv("MORPHSEQ_PIPELINE", TOY)
    monkeypatch.delenv("MORPHSEQ_TRACE", raising=False)
    monkeypatch.chdir(tmp_path)
    return open_toy(tmp_path / "root")


@pytest.fixture
def say(workspace: Workspace, capfd: pytest.CaptureFixture[str]) -> Callable[..., Said]:
    """Runs the command line and returns its exit code and what it printed."""
    del workspace

    def say(*arguments: str) -> Said:
        code = main(list(arguments))
        out, err = capfd.readouterr()
        return Said(code, out, err)

    return say


@pytest.fixture
def add(workspace: Workspace) -> Callable[..., Path]:
    """Adds an experiment whose acquisition has ended; `words` by well, None leaves the input out."""

    def add(experiment: str, words: dict[str, str] | None = None, *, ready: bool = True) -> Path:
        folder = raw_folder(workspace.layout, "Keyence", experiment=experiment)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "a.tif").touch()
        if ready:
            (folder / "acquisition_complete").touch()
        write_words(workspace.layout, experiment, words=words or {"A01": "fish", "A02": "egg"})
        return folder

    return add


@pytest.fixture
def instance(workspace: Workspace) -> Iterator[dg.DagsterInstance]:
    del workspace
    with dg.DagsterInstance.from_config(os.environ["DAGSTER_HOME"]) as instance:
        yield instance


def list_all(root: Path) -> list[tuple[str, int, int, int]]:
    """Every file and folder with size, time and inode."""
    statuses = {str(path): path.lstat() for path in root.rglob("*")}
    return sorted((path, status.st_size, status.st_mtime_ns, status.st_ino) for path, status in statuses.items())


@pytest.fixture
def listing(workspace: Workspace) -> Callable[[], list[tuple[str, int, int, int]]]:
    """Everything below the data root, to tell whether a verb wrote."""
    return lambda: list_all(workspace.data_root)
