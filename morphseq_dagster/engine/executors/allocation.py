"""Allocation: the processors, GPUs and memory that this process may use, and the workers and thread pools that follow.

The workers themselves are in `pool.py`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from morphseq_dagster.engine.contract.step import StepSpec
from morphseq_dagster.engine.executors.child_process import limit_threads
from morphseq_dagster.engine.executors.pool import WorkerPool
from morphseq_dagster.errors import PermanentError

CPUS_VARIABLE: Final = "MORPHSEQ_CPUS"
"""Processors given, where neither the scheduler nor the caller says so."""
WORKER_MB: Final = 1024
"""Memory that one worker is counted with where the memory of a job is known."""
_NO_GPU: Final = frozenset({"", "-1", "NoDevFiles"})


@dataclass(frozen=True, kw_only=True)
class Allocation:
    """What was given to this process.

    Parameters
    ----------
    cpus
        Processors.
    gpus
        Names of GPUs as CUDA_VISIBLE_DEVICES has them.
    memory_mb
        Memory in MiB; None where nobody limits it.
    """

    cpus: int = 1
    gpus: tuple[str, ...] = ()
    memory_mb: float | None = None

    def workers(self, spec: StepSpec) -> WorkerPool | None:
        """Workers for the wells of a step: one per processor, or per GPU where the step uses one; None for one alone.

        A worker on a GPU has it for itself, since models fill its memory.
        """
        size = self.cpus
        if spec.pool == "gpu" and self.gpus:
            size = min(size, len(self.gpus))
        if self.memory_mb is not None:
            size = min(size, int(self.memory_mb // WORKER_MB))
        # A single GPU, or none, needs no choice; the step's own process uses what it sees.
        return WorkerPool(size=size, cpus=self.cpus, gpus=self.gpus) if size > 1 else None

    def take_up(self, spec: StepSpec) -> WorkerPool | None:
        """Set the thread pools of this process to the processors given; return the workers for a step."""
        limit_threads(self.cpus)
        return self.workers(spec)


def read_allocation(variables: Mapping[str, str] | None = None, *, cpus: int | None = None) -> Allocation:
    """Read what was given: by the caller, by MORPHSEQ_CPUS, by Slurm, or else every processor of this process.

    What Slurm gives counts as far as the process may run on as many processors.

    Raises
    ------
    PermanentError
        For a number of processors that is none.
    """
    variables = os.environ if variables is None else variables
    usable = count_usable()
    if cpus is None and CPUS_VARIABLE in variables:
        cpus = _number(variables, CPUS_VARIABLE)
    if cpus is None and "SLURM_CPUS_PER_TASK" in variables:
        cpus = min(usable, _number(variables, "SLURM_CPUS_PER_TASK"))
    gpus = tuple(name.strip() for name in variables.get("CUDA_VISIBLE_DEVICES", "").split(","))
    cpus = usable if cpus is None else cpus
    return Allocation(
        cpus=cpus, gpus=tuple(g for g in gpus if g not in _NO_GPU), memory_mb=_memory_mb(variables, cpus=cpus)
    )


def count_usable() -> int:
    """Processors that this process may run on."""
    allowed = getattr(os, "sched_getaffinity", None)
    return len(allowed(0)) if allowed is not None else os.cpu_count() or 1


def _memory_mb(variables: Mapping[str, str], *, cpus: int) -> float | None:
    if "SLURM_MEM_PER_NODE" in variables:
        return float(_number(variables, "SLURM_MEM_PER_NODE")) or None  # 0 stands for all of the node's
    if "SLURM_MEM_PER_CPU" in variables:
        return float(_number(variables, "SLURM_MEM_PER_CPU") * cpus) or None
    return None


def _number(variables: Mapping[str, str], name: str) -> int:
    text = variables[name]
    least = 0 if name.startswith("SLURM_MEM") else 1
    if not (text.isascii() and text.isdigit() and int(text) >= least):
        raise PermanentError(
            expected=f"a whole number of at least {least}", found=repr(text), where=name, remedy="correct the variable"
        )
    return int(text)
