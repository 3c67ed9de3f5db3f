"""Staleness: the planner at a thousand experiments, the verbs that use it, and Snakemake 9 beside them (`snakemake`).

The graph is the project's: 18 steps per experiment with the same edges, every file a few bytes.
"""

from __future__ import annotations

from pathlib import Path

from benchmarks.measure import CLI, Line, run_children
from benchmarks.snakemake import compare_snakemake
from morphseq_dagster.engine.workspace import Workspace
from morphseq_dagster.morphseq.pipeline import MORPHSEQ
from tests.support.fabricated import fabricate_experiment, name_experiments

_PLAN = """
import resource, sys
from pathlib import Path
from morphseq_dagster.engine.planner.plan import plan_experiments
from morphseq_dagster.morphseq.pipeline import MORPHSEQ
from morphseq_dagster.engine.workspace import Workspace
from tests.support.fabricated import name_experiments
plans = plan_experiments(Workspace(Path(sys.argv[1]), MORPHSEQ), experiments=name_experiments(int(sys.argv[2])))
assert sum(len(plan.pending) for plan in plans) == 0
"""
_PLANNED = 1000
_SHOWN = 200


def measure_staleness(scratch: Path, *, repeats: int) -> list[Line]:
    """Measure planner, status, pipeline with nothing to do, and the comparison with Snakemake."""
    big, middle, small = scratch / "plan_1000", scratch / "plan_200", scratch / "plan_1"
    for root, count in ((big, _PLANNED), (middle, _SHOWN), (small, 1)):
        fabricate(root, count=count)
    costs = run_children(
        {
            "planner": ["-c", _PLAN, str(big), str(_PLANNED)],
            "status 200": [*CLI, "status", "--data-root", str(middle)],
            "status 1": [*CLI, "status", "--data-root", str(small)],
            "pipeline": [*CLI, "pipeline", "--data-root", str(middle)],
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
    workspace = Workspace(root, MORPHSEQ)
    for experiment in name_experiments(count):
        fabricate_experiment(workspace, experiment)
