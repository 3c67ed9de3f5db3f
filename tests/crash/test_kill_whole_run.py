"""SIGKILL at random moments of a whole run, raw pictures to final table: old or new files, no orphan, and it heals.

Half of the runs start from raw pictures alone, half find a finished experiment whose pictures and workbook were
exchanged. Every kill has a seed of its own, which the messages name.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from morphseq_dagster.engine.storage.commit import is_interrupted
from morphseq_dagster.engine.storage.file_lists import list_tree
from morphseq_dagster.engine.storage.records import OutputVerdict, compare_output, read_record
from morphseq_dagster.engine.storage.sweep import sweep
from morphseq_dagster.engine.workspace import Workspace
from tests.support.experiments import (
    FRAMES_EXPERIMENT,
    STEPS,
    edit_workbook,
    make_small_frames,
    open_data_root,
    run_experiment,
    workbook_path,
)

# Per step and folder (the file's own for tables and documents) the bytes by path; records carry times and are left out.
Files = dict[str, bytes]
Published = dict[str, dict[str, Files]]


def read_published(workspace: Workspace) -> Published:
    layout, found = workspace.layout, {}
    for spec in workspace.pipeline.steps:
        primary = workspace.output(spec, experiment=FRAMES_EXPERIMENT)
        units: dict[str, Files] = {}
        for folder in layout.folders(spec.name, experiment=FRAMES_EXPERIMENT):
            there = list_tree(folder) if folder.is_dir() else ()
            units[layout.relative(folder)] = {layout.relative(path): path.read_bytes() for path, _ in there}
        if not units:
            files = {layout.relative(primary): primary.read_bytes()} if primary.exists() else {}
            units[layout.relative(primary)] = files
        found[spec.name] = units
    return found


@dataclass(frozen=True)
class Start:
    """A data root to begin from, what its steps may hold, what they must hold in the end, and how long a run takes."""

    name: str
    data_root: Path
    before: Published
    after: Published
    seconds: float


def fork_run(data_root: Path) -> int:
    """Run the chain in a forked child; return its process number."""
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        run_experiment(open_data_root(data_root), FRAMES_EXPERIMENT)
        code = 0
    finally:
        os._exit(code)


def measure(name: str, data_root: Path, folder: Path) -> Start:
    """Let a copy run undisturbed to learn the right bytes and the time."""
    copy = Path(shutil.copytree(data_root, folder / f"{name}_reference"))
    begun = time.monotonic()
    _, status = os.waitpid(fork_run(copy), 0)
    assert os.waitstatus_to_exitcode(status) == 0
    seconds = time.monotonic() - begun
    return Start(
        name, data_root, read_published(open_data_root(data_root)), read_published(open_data_root(copy)), seconds
    )


@pytest.fixture(scope="module")
def starts(finished_frames: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Start, Start]:
    folder = tmp_path_factory.mktemp("starts")
    raw = folder / "raw"
    make_small_frames(raw, seed=7)
    edit_workbook(workbook_path(raw, FRAMES_EXPERIMENT), sheet="genotype", well="A02", value="mutant")
    exchanged = Path(shutil.copytree(finished_frames, folder / "exchanged"))
    shutil.copytree(raw, exchanged, dirs_exist_ok=True)
    found = measure("raw pictures alone", raw, folder), measure("exchanged pictures", exchanged, folder)
    changed = {step for step in STEPS if found[1].before[step] != found[1].after[step]}
    assert changed == set(STEPS) - {"qc_masks"}, "the two versions differ wherever they can"
    return found


def check_units(workspace: Workspace, start: Start, told: str) -> None:
    """Every folder and file is wholly one version, and all of a step are the same one unless a journal promises it."""
    for step, units in read_published(workspace).items():
        before, after = start.before[step], start.after[step]
        for unit, files in units.items():
            assert files in (before[unit], after[unit]), f"{told}: {unit} of {step} is neither old nor new"
        if not is_interrupted(workspace.layout, step=step, experiment=FRAMES_EXPERIMENT):
            assert units in (before, after), f"{told}: {step} is half published"


def check_swept(workspace: Workspace, start: Start, told: str) -> None:
    layout = workspace.layout
    sweep(layout)
    left = sorted(layout.relative(path) for path in layout.data_root.rglob("*.tmp"))
    assert left == [], f"{told}: left after the sweep"
    assert list((layout.private / "pending").glob("*")) == [], told
    for step, units in read_published(workspace).items():
        assert units in (start.before[step], start.after[step]), f"{told}, swept: {step} is half published"
        record = read_record(layout, primary=workspace.output(step, experiment=FRAMES_EXPERIMENT))
        present = any(units.values())
        assert (record is not None) == present, f"{told}, swept: {step} and its record part"
        if record is not None:
            verdict = compare_output(layout, record=record, thorough=True)
            assert verdict is OutputVerdict.AS_RECORDED, f"{told}, swept: {step} is {verdict}"


def check_healed(workspace: Workspace, start: Start, told: str) -> None:
    layout = workspace.layout
    run_experiment(workspace, FRAMES_EXPERIMENT)
    now = read_published(workspace)
    wrong = {step for step in STEPS if now[step] != start.after[step]}
    assert wrong == set(), f"{told}: other bytes than a run that nothing disturbed"
    assert run_experiment(workspace, FRAMES_EXPERIMENT).computed == (), f"{told}: the run after that computes again"
    sweep(layout)  # of a run that nobody swept after: the next run needs no sweep, and leaves the orphans to it
    assert list(layout.data_root.rglob("*.tmp")) == [], f"{told}: left after the sweep"
    work = layout.private / "work"
    assert [path for path in work.rglob("*") if path.is_file()] == [], f"{told}: checkpoints are left"
    for step in STEPS:
        failure = layout.failure(workspace.output(step, experiment=FRAMES_EXPERIMENT))
        assert not failure.exists(), f"{told}: {step} shows a failure"


def kill_one(data_root: Path, *, after_s: float) -> float | None:
    """Kill a run some seconds after its start; None when it was killed, else how long it took to its end."""
    begun = time.monotonic()
    pid = fork_run(data_root)
    while time.monotonic() - begun < after_s:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            assert os.waitstatus_to_exitcode(status) == 0, "a run that nothing disturbed failed"
            return time.monotonic() - begun
        time.sleep(0.001)
    os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    return None if os.waitstatus_to_exitcode(status) == -signal.SIGKILL else time.monotonic() - begun


@pytest.fixture
def kill_often(starts: tuple[Start, Start], tmp_path: Path) -> Callable[[int, int], None]:
    def kill(kills: int, first_seed: int) -> None:
        # Other work on the machine comes and goes: a run that ends before its kill tells anew how long one takes.
        longest = {start.name: start.seconds for start in starts}
        done, seed = 0, first_seed
        while done < kills:
            assert seed < first_seed + 5 * kills, f"only {done} of {kills} runs lived long enough to be killed"
            start = starts[seed % 2]
            after_s = random.Random(seed).uniform(0, 1.05 * longest[start.name])
            data_root = Path(shutil.copytree(start.data_root, tmp_path / f"seed{seed}"))
            took = kill_one(data_root, after_s=after_s)
            if took is None:
                told = f"seed {seed}, {start.name}, killed after {1000 * after_s:.0f} ms"
                workspace = open_data_root(data_root)
                check_units(workspace, start, told)
                # Every other time nobody sweeps before the next run.
                if seed % 4 < 2:
                    check_swept(workspace, start, told)
                check_healed(workspace, start, told)
                done += 1
            else:
                longest[start.name] = took
            shutil.rmtree(data_root)
            seed += 1

    return kill


def test_killed_whole_runs_leave_old_or_new_and_heal(kill_often: Callable[[int, int], None]) -> None:
    kill_often(12, 20250529)


@pytest.mark.slow
@pytest.mark.parametrize("first_seed", [1000, 2000, 3000, 4000])
def test_two_hundred_killed_whole_runs_leave_old_or_new_and_heal(
    kill_often: Callable[[int, int], None], first_seed: int
) -> None:
    kill_often(50, first_seed)


def test_killed_run_keeps_its_finished_wells_and_steps(starts: tuple[Start, Start], tmp_path: Path) -> None:
    start = starts[0]
    data_root = tmp_path / "root"
    shutil.copytree(start.data_root, data_root)
    pid = fork_run(data_root)
    workspace = open_data_root(data_root)
    detected = workspace.output("gdino_raw", experiment=FRAMES_EXPERIMENT)
    while not detected.exists():  # the step after it is then at work
        assert os.waitpid(pid, os.WNOHANG) == (0, 0), "the run ended before it could be killed"
        time.sleep(0.001)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    run = run_experiment(workspace, FRAMES_EXPERIMENT)
    assert not {"raw_manifest", "ff_images", "organized_frames"} & set(run.computed)
    assert {"sam2_metadata", "snips", "embryo_latents_final"} <= set(run.computed)
