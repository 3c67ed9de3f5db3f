"""Runner: `python -m morphseq_dagster.engine.executors.runner REQUEST.json` runs one request anywhere, without Dagster.

Holds the command only. It executes, commits and leaves the outcome in a file; files prove success, exit codes explain.
Where a job works on several requests, `slurm.foreman` calls `prepare` once, `main` in a process for each, and `follow`.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import importlib
import json
import os
import resource
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from morphseq_dagster.engine.contract.crew import WorkerLostError, peak_of_crews_mb
from morphseq_dagster.engine.contract.progress import Progress, listening
from morphseq_dagster.engine.executors.allocation import read_allocation
from morphseq_dagster.engine.executors.environment import describe_environment, refuse_difference
from morphseq_dagster.engine.executors.execution import execute_body, fail_request, publish, read_request
from morphseq_dagster.engine.executors.runner_outcome import DEFAULT_REGISTRY, RunnerOutcome
from morphseq_dagster.engine.storage.atomic_io import write_durably
from morphseq_dagster.engine.storage.hashing import hash_file
from morphseq_dagster.engine.storage.records import encode
from morphseq_dagster.engine.workspace import Workspace, load_registry
from morphseq_dagster.errors import PermanentError, TransientError, report

if TYPE_CHECKING:
    from morphseq_dagster.cluster.pilot.chaining import Begin

_PR_SET_PDEATHSIG = 1
_SUCCESSION = "morphseq_dagster.cluster.pilot.next_step"


def prepare(arguments: list[str]) -> None:
    """Load what requests with these arguments share, once for all processes that are forked afterwards."""
    options = _parse(arguments)
    registry = load_registry(options.registry)
    registry.spec(read_request(options.request).step).load()
    with contextlib.suppress(PermanentError):  # each request says it itself
        _meet_environment(options)
    importlib.import_module(_SUCCESSION)


def follow(arguments: list[str], then: tuple[str, ...], *, run_id: str, begin: Begin) -> None:
    """Begin the next of the steps named that is to be done, now that the request of these arguments is."""
    from morphseq_dagster.cluster.pilot.next_step import begin_next  # most jobs have no use for it

    options = _parse(arguments)
    # Another run than the one that asked may have taken the job over meanwhile.
    request = read_request(options.request).model_copy(update={"run_id": run_id})
    workspace = Workspace(Path(request.data_root), load_registry(options.registry))
    begin_next(workspace, request=request, then=then, begin=begin)


def main(arguments: list[str] | None = None) -> int:
    """Run one request; return 0 when its result is published."""
    options = _parse(arguments)
    if options.parent is not None:
        _end_with(options.parent)
    signal.signal(signal.SIGUSR1, _stop_in_time)
    request = read_request(options.request)
    try:
        _meet_environment(options)
    except PermanentError as error:
        fail_request(request.layout(), request=request, error=error)
        return _leave(RunnerOutcome(error=report(error)), options=options)
    registry = load_registry(options.registry)
    layout = registry.layout(Path(request.data_root))
    try:
        with listening(_print_progress):
            executed = execute_body(
                registry.spec(request.step),
                request=request,
                place=options.place,
                allocation=None if options.cpus == 0 else read_allocation(cpus=options.cpus),
            )
        outcome = RunnerOutcome(record=publish(layout, executed=executed))
    except WorkerLostError as error:
        return _end_like(error, options=options)
    except Exception as error:  # noqa: BLE001 - whatever a step raises is recorded and told to the caller
        outcome = RunnerOutcome(error=report(error))
    return _leave(outcome, options=options)


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="morphseq_dagster.engine.executors.runner", description=__doc__)
    parser.add_argument("request", type=Path)
    parser.add_argument("--registry", default=DEFAULT_REGISTRY, help="module:attribute of the registry")
    parser.add_argument("--outcome", type=Path, help="file for the record or the error")
    parser.add_argument("--usage", type=Path, help="file for peak memory and processor time")
    parser.add_argument("--place", default="subprocess", help="name of the place, for the record")
    parser.add_argument("--environment", type=Path, help="description of the environment that this one must be")
    parser.add_argument("--preamble", type=Path, help="shell file that was read before, to be told with the usage")
    parser.add_argument(
        "--cpus", type=int, help="processors; what was given or all unless named, 0 for well after well"
    )
    parser.add_argument("--parent", type=int, help="end when this process ends: it holds the claim")
    return parser.parse_args(arguments)


def _meet_environment(options: argparse.Namespace) -> None:
    """Know this environment, which the results are to name, and refuse to work in another than is expected."""
    if options.environment is None:
        describe_environment()
    else:
        refuse_difference(options.environment)


def _print_progress(progress: Progress) -> None:
    message = {"step": progress.step, "done": progress.done, "total": progress.total, "label": progress.label}
    print(json.dumps(message), flush=True)


def _stop_in_time(number: int, frame: object) -> None:
    """End before the scheduler's time limit does: finished wells are kept, another job goes on from there."""
    del number, frame
    raise TransientError(
        expected="the step to finish within the job's time limit",
        found="the warning before the limit",
        where="signal USR1",
        remedy="finished wells are kept; run again, or ask for more time in places.slurm",
    )


def _leave(outcome: RunnerOutcome, *, options: argparse.Namespace) -> int:
    """Write down how it ended; the exit code says so as well."""
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)  # the outcome is written whatever comes now
    if outcome.error is not None:
        print(outcome.error.message, file=sys.stderr)
    _write_usage(options)
    if options.outcome is not None:
        write_durably(options.outcome, encode(outcome))
    return 0 if outcome.error is None else 1


def _end_like(error: WorkerLostError, *, options: argparse.Namespace) -> int:
    """End as the worker did and without an outcome, so that a crash or a kill is seen as what it is."""
    print(error, file=sys.stderr, flush=True)
    _write_usage(options)
    if error.code < 0:
        number = -error.code
        if number != signal.SIGKILL:
            signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
    return error.code or 1


def _write_usage(options: argparse.Namespace) -> None:
    if options.usage is None:
        return
    told: dict[str, float | str] = {**_measure(), "environment": describe_environment().hash}
    if options.preamble is not None and options.preamble.is_file():
        told["preamble"] = hash_file(options.preamble)
    write_durably(options.usage, json.dumps(told).encode())


def _measure() -> dict[str, float]:
    """Peak memory and processor time of this process, its workers and its other ended children.

    The peaks of workers are added up, which is what they use when all are at it together; of others the largest counts.
    """
    uses = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    peaks_mb = [use.ru_maxrss / 1024 for use in uses]  # Linux counts in KiB
    return {
        "max_rss_mb": round(max(*peaks_mb, peaks_mb[0] + peak_of_crews_mb()), 1),
        "cpu_s": round(sum(use.ru_utime + use.ru_stime for use in uses), 3),
    }


def _end_with(parent: int) -> None:
    """Die with the parent: the claim is the parent's, and a claim without a holder may be taken by another."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit("the process that asked for this run is gone")


if __name__ == "__main__":
    sys.exit(main())
