"""Executors by name: what the settings call the place of a step, made into the object that runs it there.

The cluster's is imported where a setting names it, or where its jobs have left their folder below the data root.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from morphseq_dagster.engine.executors.execution import HERE
from morphseq_dagster.engine.executors.local import LocalExecutor, SubprocessExecutor
from morphseq_dagster.engine.executors.protocol import Executor
from morphseq_dagster.engine.layout import Layout
from morphseq_dagster.engine.pipeline import load_pipeline
from morphseq_dagster.errors import PermanentError
from morphseq_dagster.settings.slurm import SLURM, SlurmSettings

SUBPROCESS: Final = "subprocess"


def make_executor(
    name: str,
    *,
    pipeline: str,
    data_root: Path,
    cpus: int | None = None,
    slurm: SlurmSettings | None = None,
    suspend: bool = False,
) -> Executor:
    """Make the executor of a name.

    Parameters
    ----------
    cpus
        Processors for the wells of a step on this machine.
    suspend
        Whether the cluster's executor leaves its jobs at work instead of waiting for them.

    Raises
    ------
    PermanentError
        For any other name, and for the cluster's without settings.
    """
    if name == SLURM and slurm is not None:
        from morphseq_dagster.cluster.executor import SlurmExecutor

        return SlurmExecutor(slurm, pipeline=pipeline, suspend=suspend)
    executor: Executor
    if name == HERE:
        executor = LocalExecutor(load_pipeline(pipeline), cpus=cpus)
    elif name == SUBPROCESS:
        executor = SubprocessExecutor(pipeline, cpus=cpus)
    else:
        raise PermanentError(
            expected="process, subprocess, or slurm with a section places.slurm",
            found=repr(name),
            where="setting `place`",
            remedy="correct the setting",
        )
    if not Layout(data_root).jobs.is_dir():
        return executor
    from morphseq_dagster.cluster.open_jobs import BesideJobs

    return BesideJobs(executor)
