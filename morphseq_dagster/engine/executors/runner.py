"""Runner: `python -m morphseq_dagster.engine.executors.runner REQUEST.json` runs one request anywhere, without Dagster.

It executes, commits and leaves the outcome in a file (`runner_outcome.py`); files prove success, exit codes explain.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import signal
import sys
from pathlib import Path

from morphseq_dagster.engine.contract.progress import Progress
from morphseq_dagster.engine.executors.allocation import read_allocation
from morphseq_dagster.engine.executors.child_process import end_with
from morphseq_dagster.engine.executors.environment import describe_environment, refuse_difference
from morphseq_dagster.engine.executors.execution import execute_body, fail_request, publish, read_request
from morphseq_dagster.engine.executors.pool import WorkerLostError, WorkerPool
from morphseq_dagster.engine.executors.runner_outcome import RunnerOutcome
from morphseq_dagster.engine.layout import Layout
from morphseq_dagster.engine.pipeline import load_pipeline
from morphseq_dagster.engine.storage.atomic_io import write_durably
from morphseq_dagster.engine.storage.hashing import hash_file
from morphseq_dagster.engine.storage.records import encode
from morphseq_dagster.errors import PermanentError, TransientError, report


def main(arguments: list[str] | None = None) -> int:
    """Run one request; return 0 when its result is published."""
    options = parse(arguments)
    if options.parent is not None:
        end_with(options.parent)
    signal.signal(signal.SIGUSR1, _stop_in_time)
    request = read_request(options.request)
    try:
        meet_environment(options)
    except PermanentError as error:
        fail_request(Layout(Path(request.data_root)), request=request, error=error)
        return _leave(RunnerOutcome(error=report(error)), options=options)
    pipeline = load_pipeline(options.pipeline)
    layout, workers = pipeline.layout(Path(request.data_root)), None
    try:
        spec = pipeline.spec(request.step)
        workers = None if options.cpus == 0 else read_allocation(cpus=options.cpus).take_up(spec)
        executed = execute_body(
            spec,
            request=request,
            layout=layout,
            place=options.place,
            workers=workers,
            progress=_print_progress,
        )
        outcome = RunnerOutcome(record=publish(layout, executed=executed))
    except WorkerLostError as error:
        return _end_like(error, options=options, workers=workers)
    except Exception as error:  # noqa: BLE001 - whatever a step raises is recorded, and the caller raises it
        outcome = RunnerOutcome(error=report(error))
    return _leave(outcome, options=options, workers=workers)


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Read the arguments of the command."""
    parser = argparse.ArgumentParser(prog="morphseq_dagster.engine.executors.runner", description=__doc__)
    parser.add_argument("request", type=Path)
    parser.add_argument("--pipeline", required=True, help="module:attribute of the pipeline")
    parser.add_argument("--outcome", type=Path, help="file for the record or the error")
    parser.add_argument("--usage", type=Path, help="file for peak memory and processor time")
    parser.add_argument("--place", default="subprocess", help="name of the executor, for the record")
    parser.add_argument("--environment", type=Path, help="description of the environment that this one must be")
    parser.add_argument("--preamble", type=Path, help="shell file that was read before; its hash stands in the usage")
    parser.add_argument(
        "--cpus", type=int, help="processors; what was given or all unless named, 0 for well after well"
    )
    parser.add_argument("--parent", type=int, help="end when this process ends: it holds the lock")
    return parser.parse_args(arguments)


def meet_environment(options: argparse.Namespace) -> None:
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


def _leave(outcome: RunnerOutcome, *, options: argparse.Namespace, workers: WorkerPool | None = None) -> int:
    """Write down how it ended; the exit code shows it as well."""
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)  # the outcome is written whatever comes now
    if outcome.error is not None:
        print(outcome.error.message, file=sys.stderr)
    _write_usage(options, workers=workers)
    if options.outcome is not None:
        write_durably(options.outcome, encode(outcome))
    return 0 if outcome.error is None else 1


def _end_like(error: WorkerLostError, *, options: argparse.Namespace, workers: WorkerPool | None) -> int:
    """End as the worker did and without an outcome, so that a crash or a kill is seen as what it is."""
    print(error, file=sys.stderr, flush=True)
    _write_usage(options, workers=workers)
    if error.code < 0:
        number = -error.code
        if number != signal.SIGKILL:
            signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
    return error.code or 1


def _write_usage(options: argparse.Namespace, *, workers: WorkerPool | None) -> None:
    if options.usage is None:
        return
    usage: dict[str, float | str] = {**_measure(workers), "environment": describe_environment().hash}
    if options.preamble is not None and options.preamble.is_file():
        usage["preamble"] = hash_file(options.preamble)
    write_durably(options.usage, json.dumps(usage).encode())


def _measure(workers: WorkerPool | None) -> dict[str, float]:
    """Peak memory and processor time of this process, its workers and its other ended children.

    The peaks of workers are added up, which is what they use when all are at it together; of others the largest counts.
    """
    uses = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    peaks_mb = [use.ru_maxrss / 1024 for use in uses]  # Linux counts in KiB
    return {
        "max_rss_mb": round(max(*peaks_mb, peaks_mb[0] + (workers.peak_mb if workers is not None else 0.0)), 1),
        "cpu_s": round(sum(use.ru_utime + use.ru_stime for use in uses), 3),
    }


if __name__ == "__main__":
    sys.exit(main())
