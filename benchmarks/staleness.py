"""Staleness: the planner at a thousand experiments, the verbs that use it, and Snakemake 9 on the same graph.

The graph is the project's: 18 steps per experiment with the same edges, every file a few bytes. Snakemake lives in an
environment of its own, `benchmarks/.venv-snakemake`, made on first use. Both are asked for a plan only (`stale`,
`snakemake --dry-run`) after nothing, one raw file, one parameter of one experiment changed.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from benchmarks.measure import MORPHSEQ, ROOT, Cost, Line, run_child, run_children
from morphseq_dagster.steps.registry import REGISTRY
from morphseq_dagster.steps.workspace import Workspace
from morphseq_dagster.testing.fabricated import fabricate_experiment, name_experiments

SNAKEMAKE = ROOT / "benchmarks" / ".venv-snakemake"
_PLAN = """
import resource, sys
from pathlib import Path
from morphseq_dagster.lineage.plan import plan_experiments
from morphseq_dagster.steps.registry import REGISTRY
from morphseq_dagster.steps.workspace import Workspace
from morphseq_dagster.testing.fabricated import name_experiments
plans = plan_experiments(Workspace(Path(sys.argv[1]), REGISTRY), experiments=name_experiments(int(sys.argv[2])))
assert sum(len(plan.pending) for plan in plans) == 0
"""
_PLANNED = 1000
_SHOWN = 200
_SIZES = (100, 1000)
_WITH_METADATA = 100
"""Experiments up to which Snakemake is given its metadata, without which it sees no parameter: writing that of 18,000
files takes it more than half an hour. Without metadata it has less to read, so the comparison is not against it."""


def measure_staleness(scratch: Path, *, repeats: int) -> list[Line]:
    """Measure planner, status, pipeline with nothing to do, and the comparison with Snakemake."""
    big, middle, small = scratch / "plan_1000", scratch / "plan_200", scratch / "plan_1"
    for root, count in ((big, _PLANNED), (middle, _SHOWN), (small, 1)):
        fabricate(root, count=count)
    costs = run_children(
        {
            "planner": ["-c", _PLAN, str(big), str(_PLANNED)],
            "status 200": [*MORPHSEQ, "status", "--data-root", str(middle)],
            "status 1": [*MORPHSEQ, "status", "--data-root", str(small)],
            "pipeline": [*MORPHSEQ, "pipeline", "--data-root", str(middle)],
        },
        repeats=repeats,
    )

    def line(what: str, name: str, limit: float) -> Line:
        return Line("staleness", what, costs[name].cpu_s, "CPU-s", limit)

    lines = [
        line("planner, 1,000 experiments x 18 steps, import included", "planner", 3.0),
        Line("staleness", "planner, its memory", costs["planner"].memory_mib, "MiB", 300.0),
        line("status of 200 experiments", "status 200", 2.0),
        line("status of one experiment", "status 1", 1.0),
        line("pipeline with nothing to do on 200 experiments", "pipeline", 3.0),
    ]
    return lines + compare_snakemake(scratch, repeats=repeats)


def fabricate(root: Path, *, count: int) -> None:
    """Write finished experiments with trivial files."""
    workspace = Workspace(root, REGISTRY)
    for experiment in name_experiments(count):
        fabricate_experiment(workspace, experiment)


def compare_snakemake(scratch: Path, *, repeats: int) -> list[Line]:
    """Compare with Snakemake on the same graph; left out with a word where it cannot be installed."""
    program = install_snakemake()
    if program is None:
        print("snakemake: left out, it could not be installed", file=sys.stderr)
        return []
    lines = []
    for count in _SIZES:
        ours, theirs = scratch / f"ours_{count}", scratch / f"snakemake_{count}"
        fabricate(ours, count=count)
        write_snakemake(theirs, count=count)
        first = name_experiments(count)[0]
        raw = Workspace(ours, REGISTRY).layout.raw_folder("Frames", experiment=first) / "a.png"
        recipe = ours / "recipes" / f"{first}.toml"
        their_raw, config = theirs / "raw" / first, theirs / "config.yaml"
        changes = ["nothing", "one raw file"]
        if count <= _WITH_METADATA:
            touch_all(theirs, program=program)
            changes.append("one parameter")
        before = their_raw.stat()
        for change in changes:
            if change == "one raw file":
                raw.write_bytes(b"other")
                their_raw.write_bytes(b"other")
            elif change == "one parameter":
                raw.write_bytes(b"a")
                their_raw.write_bytes(b"a")
                os.utime(their_raw, ns=(before.st_atime_ns, before.st_mtime_ns))
                recipe.parent.mkdir(exist_ok=True)
                recipe.write_text("[gdino_detections]\nconfidence_threshold = 0.5\n")
                config.write_text(f"threshold: {{{first}: 0.5}}\n")
            own = _median([run_child([*MORPHSEQ, "stale", "--data-root", str(ours)]) for _ in range(repeats)])
            other = _median([dry_run(theirs, program=program) for _ in range(1 if count > 100 else repeats)])
            what = f"{count} experiments, {change}"
            lines += [
                Line("snakemake", f"{what}: morphseq stale", own.cpu_s, "CPU-s"),
                Line("snakemake", f"{what}: snakemake --dry-run", other.cpu_s, "CPU-s"),
            ]
            ratio = other.cpu_s / own.cpu_s
            goal = "goal 5" if change == "nothing" else ""
            lines.append(Line("snakemake", f"{what}: times faster", ratio, "times", None, goal))
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


def write_snakemake(folder: Path, *, count: int) -> None:
    """Write the same graph as a Snakefile, with one rule per step and one parameter in the filter of detections."""
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text("threshold: {}\n")
    (folder / "raw").mkdir()
    for experiment in name_experiments(count):
        (folder / "raw" / experiment).write_bytes(b"a")
    last = REGISTRY.steps[-1].name
    text = ['configfile: "config.yaml"', f"EXPERIMENTS = [f'20240418_e{{n:04d}}' for n in range({count})]"]
    text += ["rule all:", f"    input: expand('out/{last}/{{exp}}', exp=EXPERIMENTS)"]
    for spec in REGISTRY.steps:
        inputs = [f"'out/{name}/{{exp}}'" for name in spec.inputs] or ["'raw/{exp}'"]
        text += [f"rule {spec.name}:", f"    input: {', '.join(inputs)}", f"    output: 'out/{spec.name}/{{exp}}'"]
        if spec.name == "gdino_detections":
            text.append("    params: threshold=lambda w: config['threshold'].get(w.exp, 0.45)")
        text.append("    shell: 'echo {wildcards.exp} > {output}'")
        for experiment in name_experiments(count):
            path = folder / "out" / spec.name / experiment
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{experiment}\n")
    (folder / "Snakefile").write_text("\n".join(text) + "\n")


def touch_all(folder: Path, *, program: Path) -> None:
    """Let Snakemake take every file as made now, with its metadata."""
    command = [str(program), "--touch", "--forceall", "--cores", "2", "--quiet", "all"]
    subprocess.run(command, cwd=folder, capture_output=True, check=True)


def dry_run(folder: Path, *, program: Path) -> Cost:
    """Cost of Snakemake's plan; its jobs are counted, lest an empty answer pass for a fast one."""
    began = os.times()
    command = [str(program), "--dry-run", "--cores", "2"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    ended = os.times()
    jobs = re.search(r"^total\s+(\d+)", done.stdout + done.stderr, re.MULTILINE)
    print(f"snakemake: {folder.name}: {jobs[1] if jobs else 0} jobs planned", file=sys.stderr)
    cpu = ended.children_user + ended.children_system - began.children_user - began.children_system
    return Cost(cpu, ended.elapsed - began.elapsed, 0.0)


def _median(costs: list[Cost]) -> Cost:
    return sorted(costs, key=lambda cost: cost.cpu_s)[len(costs) // 2]
