"""Cost of child processes in CPU-seconds, and the result of a benchmark.

CPU-seconds are those of the process and all its children that have ended (wait4), user and system together: they bear
a busy machine better than wall time.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
CLI = ("-c", "import sys; from morphseq_dagster.cli import main; sys.exit(main())")
"""What the console script `morphseq` does, as arguments of python."""
BYTE_CODE = Path(tempfile.gettempdir()) / f"morphseq_benchmark_bytecode_{os.getuid()}"
"""Where byte code is kept, since some surroundings forbid to write it beside the sources."""


@dataclass(frozen=True)
class Cost:
    """What one process cost: CPU and wall time in s, largest memory of any of its processes in MiB."""

    cpu_s: float
    wall_s: float
    memory_mib: float


@dataclass(frozen=True)
class Line:
    """One line of the report.

    `limit` is what `measured` should not exceed, in the same unit; None where there is none.
    """

    benchmark: str
    what: str
    measured: float
    unit: str
    limit: float | None = None
    note: str = ""

    @property
    def holds(self) -> bool | None:
        """Whether the limit holds; None without one."""
        return None if self.limit is None else self.measured <= self.limit

    def encode(self) -> dict[str, Any]:
        return {**asdict(self), "holds": self.holds}


def run_child(arguments: Sequence[str], *, environment: Mapping[str, str] | None = None) -> Cost:
    """Run `python ARGUMENTS` in the checkout, its output dropped; raise with the output when it fails."""
    cost, _ = run_program([sys.executable, *arguments], environment=environment)
    return cost


def run_program(
    command: Sequence[str], *, folder: Path = ROOT, environment: Mapping[str, str] | None = None
) -> tuple[Cost, str]:
    """Run a command; return its cost and what it said, raise with that when it fails.

    Byte code is kept for the next run, as on every machine where the project is installed, whatever the surroundings
    of the benchmark say.
    """
    surroundings = {**os.environ, "PYTHONPYCACHEPREFIX": str(BYTE_CODE), **(environment or {})}
    surroundings.pop("PYTHONDONTWRITEBYTECODE", None)
    began = time.perf_counter()
    child = subprocess.Popen(
        command,
        cwd=folder,
        env=surroundings,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert child.stdout is not None
    output = child.stdout.read().decode(errors="replace")
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    child.stdout.close()
    if child.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} ended with {child.returncode}:\n{output[-4000:]}")
    return Cost(usage.ru_utime + usage.ru_stime, time.perf_counter() - began, usage.ru_maxrss / 1024), output


def run_children(
    variants: Mapping[str, Sequence[str]],
    *,
    repeats: int,
    environment: Mapping[str, str] | None = None,
) -> dict[str, Cost]:
    """Run several commands in turn, so that whatever disturbs one disturbs all; the median of each.

    A first run of each does not count: it writes byte code and warms the disk's cache.
    """
    runs: dict[str, list[Cost]] = {name: [] for name in variants}
    for arguments in variants.values():
        run_child(arguments, environment=environment)
    for _ in range(repeats):
        for name, arguments in variants.items():
            runs[name].append(run_child(arguments, environment=environment))
    return {name: _median(costs) for name, costs in runs.items()}


def _median(costs: Sequence[Cost]) -> Cost:
    return Cost(
        *(statistics.median(getattr(cost, name) for cost in costs) for name in ("cpu_s", "wall_s", "memory_mib"))
    )
