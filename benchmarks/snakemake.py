"""Comparison with Snakemake 9: what planning costs in CPU-seconds, ours and theirs, on the same files side by side.

What is compared: finished experiments of 18 steps with trivial files. Snakemake gets a copy of the very tree that is
planned here (raw files, workbook, primary outputs, a picture per folder of an image set) and rules that are read off
its records: the same inputs and outputs, the recipe of the step as parameter. Its own metadata are those that it wrote
for one experiment (`--touch`), repeated for the others with names and checksums set, since its writing of 23 files each
for a thousand experiments would wait for the disk for more than half an hour. It is asked with the causes to run again
that are known here as well: time, parameters, set of inputs and code (`--rerun-triggers mtime params input code`).

Nothing to do: `morphseq pipeline` beside `snakemake --cores 2`; after a change: both with `--dry-run`. How many jobs
each plans is checked, lest an empty answer pass for a fast one. What is looked at here and not there: the content of
the workbook, size, time and inode of every file of a raw folder or image set against its record, failures, claims,
unfinished publications.

Snakemake lives in an environment of its own, `benchmarks/.venv-snakemake`, made on first use.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.measure import CLI, ROOT, Cost, Line, run_program
from morphseq_dagster.engine.layout import RECORD_SUFFIX
from morphseq_dagster.engine.planner.facts import read_facts
from morphseq_dagster.engine.planner.plan import plan_experiments
from morphseq_dagster.engine.workspace import Workspace
from morphseq_dagster.morphseq.paths import raw_folder
from morphseq_dagster.morphseq.pipeline import MORPHSEQ
from tests.support.fabricated import fabricate_experiment, name_experiments

SNAKEMAKE: Final = ROOT / "benchmarks" / ".venv-snakemake"
SIZES: Final = (100, 1000)
_TRIGGERS: Final = ("--rerun-triggers", "mtime", "params", "input", "code")
_CHANGED: Final = "gdino_detections"
_OTHER: Final = "[gdino_detections]\nconfidence_threshold = 0.5\n"


@dataclass(frozen=True)
class _Pair:
    """The same experiments twice: ours with records, theirs with Snakemake's metadata."""

    ours: Workspace
    theirs: Path
    experiments: tuple[str, ...]

    @property
    def raw(self) -> tuple[Path, Path]:
        """A raw picture of the first experiment, ours and theirs."""
        path = raw_folder(self.ours.layout, "Frames", experiment=self.experiments[0]) / "a.png"
        return path, self.theirs / self.ours.layout.relative(path)

    @property
    def recipe(self) -> Path:
        """Recipe of the first experiment alone."""
        return self.ours.layout.recipes(self.experiments[0])[1]

    @property
    def config(self) -> Path:
        """Where Snakemake is told of another recipe."""
        return self.theirs / "config.json"


def compare_snakemake(scratch: Path, *, repeats: int) -> list[Line]:
    """Compare with Snakemake on the same files; left out with a word where it cannot be installed."""
    program = install_snakemake()
    if program is None:
        print("snakemake: left out, it could not be installed", file=sys.stderr)
        return []
    lines = []
    for count in SIZES:
        pair = make_pair(scratch, count=count, program=program)
        changes: dict[str, Callable[[], None]] = {
            "nothing to do": lambda: None,
            "one raw file changed": lambda pair=pair: _change_raw(pair),
            "one parameter changed": lambda pair=pair: _change_parameter(pair),
        }
        for change, make in changes.items():
            restore = _remember(pair)
            make()
            jobs = _count_jobs(pair)
            ours, theirs = _measure(pair, jobs=jobs, program=program, repeats=repeats)
            restore()
            name = f"{count:,} experiments, {change}"
            own, other = (statistics.median(cost.cpu_s for cost in costs) for costs in (ours, theirs))
            ratios = sorted(their.cpu_s / our.cpu_s for our, their in zip(ours, theirs, strict=True))
            goal = "goal 5, " if not jobs else ""
            spread = f"{goal}{ratios[0]:.1f} to {ratios[-1]:.1f} in {repeats} runs, {jobs} jobs planned"
            lines += [
                Line("snakemake", f"{name}: morphseq pipeline", own, "CPU-s"),
                Line("snakemake", f"{name}: snakemake", other, "CPU-s"),
                Line("snakemake", f"{name}: times faster", other / own, "times", None, spread),
            ]
    return lines


def install_snakemake() -> Path | None:
    """Program of Snakemake in its own environment; None when that cannot be made."""
    program = SNAKEMAKE / "bin" / "snakemake"
    if not program.exists():
        print("installing snakemake into benchmarks/.venv-snakemake ...", file=sys.stderr)
        commands = (
            [sys.executable, "-m", "venv", str(SNAKEMAKE)],
            [str(SNAKEMAKE / "bin" / "pip"), "install", "--quiet", "snakemake==9.*"],
        )
        if any(subprocess.run(command, capture_output=True, check=False).returncode for command in commands):
            return None
    return program if program.exists() else None


def make_pair(scratch: Path, *, count: int, program: Path) -> _Pair:
    """Write the experiments once with records, once for Snakemake with its metadata."""
    experiments = name_experiments(count)
    ours, theirs = Workspace(scratch / f"ours_{count}", MORPHSEQ), scratch / f"snakemake_{count}"
    for experiment in experiments:
        fabricate_experiment(ours, experiment)
    template = scratch / f"snakemake_{count}_template"
    for folder, names in ((theirs, experiments), (template, experiments[:1])):
        copy_files(ours.data_root, folder, experiments=names)
        write_rules(ours, folder, experiments=names)
    command = [str(program), "--touch", "--forceall", "--cores", "2", "--quiet", "all"]
    subprocess.run(command, cwd=template, capture_output=True, check=True)
    multiply_metadata(template, theirs, experiments=experiments)
    return _Pair(ours, theirs, experiments)


def copy_files(source: Path, target: Path, *, experiments: tuple[str, ...]) -> None:
    """Copy everything of some experiments with its times, except what is ours alone: records."""
    wanted = set(experiments)
    for folder, folders, files in os.walk(source):
        folders[:] = [name for name in folders if name != ".morphseq"]
        for name in files:
            path = Path(folder, name)
            named = re.search(r"\d{8}_e\d{4}", str(path.relative_to(source)))
            if name.endswith(RECORD_SUFFIX) or (named is not None and named[0] not in wanted):
                continue
            copy = target / path.relative_to(source)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, copy)


def write_rules(ours: Workspace, folder: Path, *, experiments: tuple[str, ...]) -> None:
    """Write the Snakefile: one rule per step, its inputs and outputs as the records of an experiment name them."""
    first = experiments[0]
    (facts,) = read_facts(ours, experiments=[first])

    def spread(path: str) -> list[str]:
        whole = ours.layout.absolute(path)
        files = sorted(whole.iterdir()) if whole.is_dir() else [whole]
        names = [ours.layout.relative(file) for file in files if not file.name.endswith(RECORD_SUFFIX)]
        return [repr(name.replace(first, "{exp}")) for name in names]

    recipes = {spec.name: facts.steps[spec.name].recipe_json.decode() for spec in MORPHSEQ.steps}
    (folder / "config.json").write_text("{}")
    last = facts.steps[MORPHSEQ.steps[-1].name].output.replace(first, "{exp}")
    text = [
        'configfile: "config.json"',
        f"RECIPES = {recipes!r}",
        f"EXPERIMENTS = {list(experiments)!r}",
        "rule all:",
        f"    input: expand({last!r}, exp=EXPERIMENTS)",
    ]
    for spec in MORPHSEQ.steps:
        record = facts.steps[spec.name].record
        assert record is not None
        inputs = [name for entry in record.inputs if entry.sha256 is not None for name in spread(entry.path)]
        outputs = list(
            dict.fromkeys([*spread(record.output.path), *(n for f in record.output.folders for n in spread(f))])
        )
        text += [
            f"rule {spec.name}:",
            f"    input: {', '.join(inputs)}",
            f"    output: {', '.join(outputs)}",
            f"    params: recipe=lambda w: config.get(w.exp, {{}}).get({spec.name!r}, RECIPES[{spec.name!r}])",
            "    shell: 'echo {wildcards.exp} > {output[0]}'",
        ]
    (folder / "Snakefile").write_text("\n".join(text) + "\n")


def multiply_metadata(template: Path, target: Path, *, experiments: tuple[str, ...]) -> None:
    """Give every experiment the metadata that Snakemake wrote for the first."""
    first = experiments[0]
    folder = Path(".snakemake", "metadata")
    (target / folder).mkdir(parents=True)
    written = [path.read_text() for path in sorted((template / folder).iterdir())]
    names = [base64.b64decode(path.name).decode() for path in sorted((template / folder).iterdir())]
    for experiment in experiments:
        for name, text in zip(names, written, strict=True):
            value = json.loads(text.replace(first, experiment))
            value["input_checksums"] = {
                path: f"sha256:{hashlib.sha256((target / path).read_bytes()).hexdigest()}"
                for path in value["input_checksums"]
            }
            label = base64.b64encode(name.replace(first, experiment).encode()).decode()
            (target / folder / label).write_text(json.dumps(value))


def _change_raw(pair: _Pair) -> None:
    for path in pair.raw:
        path.write_bytes(b"other")


def _change_parameter(pair: _Pair) -> None:
    pair.recipe.parent.mkdir(exist_ok=True)
    pair.recipe.write_text(_OTHER)
    (facts,) = read_facts(pair.ours, experiments=pair.experiments[:1])
    recipe = facts.steps[_CHANGED].recipe_json.decode()
    pair.config.write_text(json.dumps({pair.experiments[0]: {_CHANGED: recipe}}))


def _remember(pair: _Pair) -> Callable[[], None]:
    """Give back what undoes the changes."""
    before = [(path, path.read_bytes(), path.stat()) for path in pair.raw]

    def restore() -> None:
        for path, data, status in before:
            path.write_bytes(data)
            os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
        pair.recipe.unlink(missing_ok=True)
        pair.config.write_text("{}")

    return restore


def _count_jobs(pair: _Pair) -> int:
    return sum(len(plan.pending) for plan in plan_experiments(pair.ours, experiments=pair.experiments))


def _measure(pair: _Pair, *, jobs: int, program: Path, repeats: int) -> tuple[list[Cost], list[Cost]]:
    """Run both in turn, so that whatever disturbs one disturbs the other; what they say is checked."""
    dry = ["--dry-run"] if jobs else []
    own = [sys.executable, *CLI, "pipeline", *dry, "--data-root", str(pair.ours.data_root)]
    other = [str(program), *dry, "--cores", "2", *_TRIGGERS]
    idle = len(pair.experiments) - bool(jobs)
    ours, theirs = [], []
    for number in range(repeats + 1):
        cost, told = run_program(own)
        their_cost, their_told = run_program(other, folder=pair.theirs)
        if told.count("nothing to do") != idle or (jobs and f"would run {jobs} of" not in told):
            raise RuntimeError(f"morphseq planned something else than {jobs} jobs:\n{told[-2000:]}")
        total = re.search(r"^total\s+(\d+)", their_told, re.MULTILINE)
        planned = int(total[1]) - 1 if total else 0  # without the rule that asks for everything
        if planned != jobs or (not jobs and "Nothing to be done" not in their_told):
            raise RuntimeError(f"snakemake planned {planned} jobs instead of {jobs}:\n{their_told[-2000:]}")
        if number:  # the first run warms caches and byte code
            ours.append(cost)
            theirs.append(their_cost)
    return ours, theirs
