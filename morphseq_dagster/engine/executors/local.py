"""Executors of this machine: the calling process, and a subprocess that commits by itself (`runner.py`).

The protocol that they fulfil stands in `protocol.py`.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from morphseq_dagster.engine.contract.step import StepRequest, StepSpec
from morphseq_dagster.engine.executors.allocation import read_allocation
from morphseq_dagster.engine.executors.child_process import describe_end
from morphseq_dagster.engine.executors.execution import HERE, execute_body, fail_request
from morphseq_dagster.engine.executors.protocol import Committed, Executed, Report, stay_silent
from morphseq_dagster.engine.executors.runner_outcome import find_new_record, read_outcome, relay_line
from morphseq_dagster.engine.layout import Layout
from morphseq_dagster.engine.pipeline import Pipeline
from morphseq_dagster.engine.storage.atomic_io import message_stem, write_durably
from morphseq_dagster.engine.storage.records import Record, encode, read_record
from morphseq_dagster.errors import TransientError, restore


class _NothingLeft:
    """An executor whose work ends with the process that asked for it."""

    def is_at_work(self, layout: Layout, *, step: str, experiment: str) -> bool:
        """No: there is no work beside the one that holds the step's lock."""
        del layout, step, experiment
        return False

    def recall(self, layout: Layout, *, record: Record, run_id: str) -> None:
        """None: nothing was published behind a run's back."""
        del layout, record, run_id


class LocalExecutor(_NothingLeft):
    """The calling process: no start-up cost, no isolation.

    Parameters
    ----------
    pipeline
        The pipeline whose steps it runs.
    cpus
        Processors for the wells of a step; None computes well after well and leaves the thread pools alone.
    """

    name = HERE

    def __init__(self, pipeline: Pipeline, *, cpus: int | None = None) -> None:
        self._pipeline = pipeline
        self._allocation = None if cpus is None else read_allocation(cpus=cpus)

    def run(self, spec: StepSpec, *, request: StepRequest, progress: Report = stay_silent) -> Executed | Committed:
        """Run the body; the caller commits."""
        layout = self._pipeline.layout(Path(request.data_root))
        return execute_body(
            spec,
            request=request,
            layout=layout,
            place=self.name,
            workers=None if self._allocation is None else self._allocation.take_up(spec),
            progress=progress,
        )


class SubprocessExecutor(_NothingLeft):
    """A child process: crashes of native code and memory kills end the step, not the caller.

    Parameters
    ----------
    pipeline
        `module:attribute` of the pipeline whose steps it runs.
    cpus
        Processors for the wells of a step; None computes well after well and leaves the thread pools alone.
    """

    name = "subprocess"

    def __init__(self, pipeline: str, *, cpus: int | None = None) -> None:
        self._pipeline = pipeline
        self._cpus = cpus

    def run(self, spec: StepSpec, *, request: StepRequest, progress: Report = stay_silent) -> Executed | Committed:
        """Run the request in a child that commits; relay its progress and its error.

        Success is the new record that answers the request: a child that published and then died has succeeded.
        """
        layout = Layout(Path(request.data_root))
        before = read_record(layout, primary=layout.absolute(request.output))
        stem = message_stem(spec.name)
        folder = layout.requests(request.experiment)
        request_path, outcome_path = folder / f"{stem}.request.json", folder / f"{stem}.outcome.json"
        command = [sys.executable, "-m", "morphseq_dagster.engine.executors.runner", str(request_path)]
        command += ["--pipeline", self._pipeline, "--outcome", str(outcome_path), "--parent", str(os.getpid())]
        command += ["--cpus", str(self._cpus or 0)]
        try:
            write_durably(request_path, encode(request))
            with subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL) as child:
                try:
                    for line in child.stdout or ():
                        relay_line(line, progress=progress)
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


def _lost(spec: StepSpec, *, request: StepRequest, code: int) -> TransientError:
    return TransientError(
        expected=f"step {spec.name} to finish",
        found=f"the process {describe_end(code)}{' and left no outcome' if code >= 0 else ''}",
        where=f"experiment {request.experiment}",
        remedy="see the log above; run the step again with more memory or fewer runs at once",
    )
