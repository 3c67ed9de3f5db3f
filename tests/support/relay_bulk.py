"""Relay bulk runs: experiments of the relay pipeline at a cluster, and what their jobs leave behind.

For tests and benchmarks of many experiments at once. The pipeline is `relay`, the cluster `slurm_cluster`.
"""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from morphseq_dagster.cluster.attempt_folder import Attempt, JobRoot
from morphseq_dagster.engine.workspace import Workspace
from morphseq_dagster.settings.slurm import SlurmSettings
from morphseq_dagster.testing.relay import word_file

_CHILD = """
import sys
from pathlib import Path
from morphseq_dagster.cluster.bulk_run import BulkRun
from morphseq_dagster.cluster.executor import SlurmExecutor, termination_raises
from morphseq_dagster.settings.slurm import SlurmSettings
from morphseq_dagster.engine.workspace import Workspace
from morphseq_dagster.testing.relay import RELAY, RELAY_PIPELINE
place = SlurmExecutor(SlurmSettings.model_validate_json(sys.argv[2]), pipeline=RELAY)
chains = {name: tuple(sys.argv[4].split(",")) for name in sys.argv[3].split(",")}
workspace = Workspace(Path(sys.argv[1]), RELAY_PIPELINE)
with termination_raises(), BulkRun(workspace, chains=chains, executor_of=lambda *_: place, run_id="child") as bulk:
    for item in bulk.events():
        print(item.experiment, flush=True)
"""


def add_experiments(workspace: Workspace, count: int, *, failing: Iterable[int] = ()) -> list[str]:
    """Add experiments with a word each, of which those at some positions say `fail`; return their names."""
    names = [f"2024{1 + number // 28:02d}{1 + number % 28:02d}" for number in range(count)]
    for number, name in enumerate(names):
        path = word_file(workspace.layout, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("fail\n" if number in failing else f"word{number}\n")
    return names


def write_recipe(workspace: Workspace, text: str, *, experiment: str | None = None) -> None:
    """Write the recipe of one experiment, or of all."""
    of_all, of_one = workspace.layout.recipes(experiment or "any")[:2]
    path = of_all if experiment is None else of_one
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)


def slow_down(workspace: Workspace, seconds: float, *, experiment: str | None = None) -> None:
    """Let the first step of one experiment, or of all, take so long."""
    write_recipe(workspace, f"[first]\nslow_s = {seconds}\n", experiment=experiment)


def hold(workspace: Workspace, *, experiment: str | None = None) -> Path:
    """Let the first step of one experiment, or of all, be at work until the file is there that this names."""
    go = workspace.data_root.with_name("go")
    write_recipe(workspace, f'[first]\nhold = "{go}"\n', experiment=experiment)
    return go


def attempts_of(workspace: Workspace, step: str = "first") -> list[Attempt]:
    """Attempts at a step, experiment by experiment."""
    root = JobRoot(workspace.layout.jobs)
    keys = sorted(workspace.layout.jobs.glob(f"{step}/*/*"))
    return [attempt for key in keys for attempt in root.attempts(key.parts[-3:-1], key=key.name)]


def count_records(workspace: Workspace, name: str, *, step: str = "first") -> int:
    """Count the attempts at a step that have a record."""
    return sum(attempt.record(name) is not None for attempt in attempts_of(workspace, step))


def count_ends(workspace: Workspace, *, step: str = "first") -> Counter[str]:
    """Count the attempts at a step by their verdict."""
    return Counter((attempt.record("closed") or {"kind": "open"})["kind"] for attempt in attempts_of(workspace, step))


def locks_of(workspace: Workspace) -> list[Path]:
    """Claims that are held."""
    return sorted(workspace.layout.lock("first", experiment="any").parent.glob("*.json"))


def start_child(
    workspace: Workspace, names: Iterable[str], *, settings: SlurmSettings, steps: tuple[str, ...] = ("first",)
) -> subprocess.Popen[str]:
    """Start a process that is at a bulk run, and says the name of an experiment for each step that is over."""
    told = [str(workspace.data_root), settings.model_dump_json(), ",".join(names), ",".join(steps)]
    return subprocess.Popen(
        [sys.executable, "-c", _CHILD, *told], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
