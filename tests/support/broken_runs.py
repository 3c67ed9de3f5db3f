"""Runs with a damaged input: what must fail, what must stand, and what mending must bring back."""

from __future__ import annotations

from pathlib import Path

from morphseq_dagster.engine.workspace import Workspace
from morphseq_dagster.errors import MorphseqError, PermanentError
from tests.support.experiments import (
    FRAMES_EXPERIMENT,
    ChainRun,
    open_data_root,
    read_artifacts,
    run_experiment,
)


def run_broken(workspace: Workspace, step: str) -> tuple[MorphseqError, ChainRun]:
    """Run with a damaged input; the named step must fail as a user's error with its four parts, and alone."""
    before = read_artifacts(workspace, FRAMES_EXPERIMENT)
    run = run_experiment(workspace, FRAMES_EXPERIMENT, keep_going=True)
    assert list(run.errors) == [step], {name: str(error) for name, error in run.errors.items()}
    error = run.errors[step]
    assert isinstance(error, PermanentError)
    assert all((error.expected, error.found, error.where, error.remedy))
    after = read_artifacts(workspace, FRAMES_EXPERIMENT)
    replaced = {run.records[name].output.path for name in run.computed}
    lost = {name for name in before if before[name] != after.get(name)} - replaced
    assert lost == set(), "what was published before stands"
    return error, run


def run_degraded(workspace: Workspace) -> ChainRun:
    """Run with a damaged input that costs a part only: every step succeeds, `ff_images` says what is lost."""
    run = run_experiment(workspace, FRAMES_EXPERIMENT)
    assert run.records["ff_images"].status == "degraded"
    return run


def assert_mended(workspace: Workspace, finished_frames: Path) -> None:
    """With the input mended, the next run gives what the undamaged experiment gave."""
    run_experiment(workspace, FRAMES_EXPERIMENT)
    first = read_artifacts(open_data_root(finished_frames), FRAMES_EXPERIMENT)
    now = read_artifacts(workspace, FRAMES_EXPERIMENT)
    # A raw file that was changed and restored has a line of its own in the keys, hence another run id.
    differ = {name for name in first.keys() | now.keys() if first.get(name) != now.get(name)}
    assert differ == set()


def truncate(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def scribble(path: Path) -> None:
    path.write_bytes(b"this is no picture at all")
