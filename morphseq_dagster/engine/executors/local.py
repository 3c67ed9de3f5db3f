"""Places: run a request in this process or in a subprocess.

Holds the interface and the two places of one machine. A cluster place implements the same interface.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Protocol

from morphseq_dagster.engine.contract.step import StepRequest, StepSpec
from morphseq_dagster.engine.executors.allocation import read_allocation
from morphseq_dagster.engine.executors.execution import HERE, Committed, Executed, execute_body, fail_request
from morphseq_dagster.engine.executors.runner_outcome import (
    DEFAULT_REGISTRY,
    SLURM,
    find_new_record,
    read_outcome,
    relay_line,
)
from morphseq_dagster.engine.layout import Layout
from morphseq_dagster.engine.storage.atomic_io import message_stem, write_durably
from morphseq_dagster.engine.storage.records import encode, read_record
from morphseq_dagster.errors import PermanentError, TransientError, restore
from morphseq_dagster.settings import SlurmSettings


class Executor(Protocol):
    """Where a step runs."""

    name: str

    def run(self, spec: StepSpec, *, request: StepRequest) -> Executed | Committed:
        """Run a request to its staged (here) or published (elsewhere) result."""
        ...


class LocalExecutor:
    """The calling process: no start-up cost, no isolation.

    Parameters
    ----------
    cpus
        Processors for the wells of a step; None computes well after well and leaves the thread pools alone.
    """

    name = HERE

    def __init__(self, *, cpus: int | None = None) -> None:
        self._allocation = None if cpus is None else read_allocation(cpus=cpus)

    def run(self, spec: StepSpec, *, request: StepRequest) -> Executed | Committed:
        """Run the body; the caller commits."""
        return execute_body(spec, request=request, place=self.name, allocation=self._allocation)


class SubprocessExecutor:
    """A child process: crashes of native code and memory kills end the step, not the caller.

    Parameters
    ----------
    registry
        `module:attribute` of the registry that the runner looks the step up in.
    cpus
        Processors for the wells of a step; None computes well after well and leaves the thread pools alone.
    """

    name = "subprocess"

    def __init__(self, *, registry: str = DEFAULT_REGISTRY, cpus: int | None = None) -> None:
        self._registry = registry
        self._cpus = cpus

    def run(self, spec: StepSpec, *, request: StepRequest) -> Executed | Committed:
        """Run the request in a child that commits; relay its progress and its error.

        Success is the new record that answers the request: a child that published and then died has succeeded.
        """
        layout = Layout(Path(request.data_root))
        before = read_record(layout, primary=layout.absolute(request.output))
        stem = message_stem(spec.name)
        folder = layout.requests(request.experiment)
        request_path, outcome_path = folder / f"{stem}.request.json", folder / f"{stem}.outcome.json"
        command = [sys.executable, "-m", "morphseq_dagster.engine.executors.runner", str(request_path)]
        command += ["--registry", self._registry, "--outcome", str(outcome_path), "--parent", str(os.getpid())]
        command += ["--cpus", str(self._cpus or 0)]
        try:
            write_durably(request_path, encode(request))
            with subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL) as child:
                try:
                    for line in child.stdout or ():
                        relay_line(line)
                    code = child.wait()
                except BaseException:
                    child.terminate()
                    raise
            outcome = read_outcome(outcome_path)
        finally:
            request_path.unlink(missing_ok=True)
            outcome_path.unlink(missing_ok=True)
        if outcome.error is not None:
            raise restore(outcome.error)
        record = outcome.record or find_new_record(layout, request=request, before=before)
        if record is None:
            error = _lost(spec, request=request, code=code)
            fail_request(layout, request=request, error=error)
            raise error
        return Committed(request, record)


def make_executor(
    name: str,
    *,
    registry: str = DEFAULT_REGISTRY,
    slurm: SlurmSettings | None = None,
    park: bool = False,
    cpus: int | None = None,
) -> Executor:
    """Make the place of a name.

    The cluster's settings, and whether to leave its jobs at work, belong to `slurm`; processors to the two others.
    """
    if name == HERE:
        return LocalExecutor(cpus=cpus)
    if name == "subprocess":
        return SubprocessExecutor(registry=registry, cpus=cpus)
    if name == SLURM and slurm is not None:
        from morphseq_dagster.cluster.executor import SlurmExecutor

        return SlurmExecutor(slurm, registry=registry, park=park)
    raise PermanentError(
        expected="process, subprocess, or slurm with a section places.slurm",
        found=repr(name),
        where="setting `place`",
        remedy="correct the setting",
    )


def _lost(spec: StepSpec, *, request: StepRequest, code: int) -> TransientError:
    if code < 0:
        name = signal.Signals(-code).name
        hint = " (the usual sign of too little memory)" if name == "SIGKILL" else ""
        found = f"the process was ended by {name}{hint}"
    else:
        found = f"the process ended with code {code} and left no outcome"
    return TransientError(
        expected=f"step {spec.name} to finish",
        found=found,
        where=f"experiment {request.experiment}",
        remedy="see the log above; run the step again with more memory or fewer runs at once",
    )
