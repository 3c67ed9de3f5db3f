"""Whole runs of the real time-lapse and the demo plate, from raw files to the final table, and again."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from benchmarks.measure import CLI, ROOT, Cost, Line, run_child
from morphseq_dagster.engine.storage.records import read_record
from morphseq_dagster.engine.workspace import Workspace
from morphseq_dagster.morphseq.pipeline import MORPHSEQ

REAL = "20210930_embryonet"
DEMO = "20240418_demo"
REAL_LIMIT_S = 60.0
"""CPU-seconds for the real time-lapse, from raw files to the final table."""


def measure_real(scratch: Path, *, shared: Path) -> list[Line]:
    """Measure the real time-lapse: whole, per step, and again."""
    root = scratch / "real"
    assemble = shared / "experiments" / "assemble.py"
    run_child([str(assemble), str(root), "--truth", str(scratch / "real_truth"), "--only", "embryonet"])
    return _measure("real time-lapse", root=root, experiment=REAL, scratch=scratch, limit_s=REAL_LIMIT_S)


def measure_demo(scratch: Path) -> list[Line]:
    """Measure the demo plate: whole, per step, and again."""
    root = scratch / "demo"
    make_demo(root)
    return _measure("demo plate", root=root, experiment=DEMO, scratch=scratch, limit_s=None)


def measure_places(scratch: Path) -> list[Line]:
    """Measure the demo plate with every step in this process, and with each in a process of its own."""
    costs: dict[str, Cost] = {}
    for place in ("process", "subprocess"):
        root = scratch / f"place_{place}"
        make_demo(root)
        costs[place] = _pipeline(root, experiment=DEMO, scratch=scratch, environment={"MORPHSEQ_PLACE": place})
    steps = len(MORPHSEQ.steps)
    extra = costs["subprocess"].cpu_s - costs["process"].cpu_s
    name = "places"
    return [
        *(Line(name, f"demo plate, place {place}", cost.cpu_s, "CPU-s") for place, cost in costs.items()),
        Line(name, "subprocess over process", costs["subprocess"].cpu_s / costs["process"].cpu_s, "x"),
        Line(name, "more per step in a subprocess", extra / steps, "CPU-s", note=f"{steps} steps"),
    ]


def make_demo(root: Path) -> None:
    """Make the demo plate's raw files."""
    code = (
        "import sys, pathlib; from morphseq_dagster.demo.plate import make_plate; root = pathlib.Path(sys.argv[1]); "
        f"make_plate(root, truth_folder=root.with_name(root.name + '_truth'), experiment={DEMO!r})"
    )
    run_child(["-c", code, str(root)])


def _measure(name: str, *, root: Path, experiment: str, scratch: Path, limit_s: float | None) -> list[Line]:
    first = _pipeline(root, experiment=experiment, scratch=scratch)
    lines = [
        Line(name, "raw files to final table", first.cpu_s, "CPU-s", limit_s, f"{first.wall_s:.1f} s wall"),
        Line(name, "most memory", first.memory_mib, "MiB"),
    ]
    workspace = Workspace(root, MORPHSEQ)
    for spec in MORPHSEQ.steps:
        record = read_record(workspace.layout, primary=workspace.output(spec, experiment=experiment))
        if record is None:
            raise RuntimeError(f"{experiment}: no record of {spec.name}")
        counts = ", ".join(f"{value} {key}" for key, value in record.counts.items() if key in ("rows", "frames"))
        lines.append(Line(name, f"  {spec.name}", record.cpu_seconds, "CPU-s", note=counts))
    second = _pipeline(root, experiment=experiment, scratch=scratch)
    lines.append(Line(name, "again, nothing to do", second.cpu_s, "CPU-s"))
    lines.append(Line(name, "again over first", 100 * second.cpu_s / first.cpu_s, "%"))
    return lines


def _pipeline(root: Path, *, experiment: str, scratch: Path, environment: Mapping[str, str] | None = None) -> Cost:
    command = [*CLI, "pipeline", "e2e", "--experiments", experiment]
    home = make_home(scratch)
    return run_child([*command, "--data-root", str(root)], environment={**home, **(environment or {})})


def make_home(scratch: Path) -> dict[str, str]:
    """Make a Dagster home of this run's own; what the environment must name."""
    home = scratch / "dagster_home"
    home.mkdir(exist_ok=True)
    shutil.copyfile(ROOT / "morphseq_dagster" / "templates" / "dagster.yaml", home / "dagster.yaml")
    return {"DAGSTER_HOME": str(home)}
