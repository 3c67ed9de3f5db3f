"""Runner: `python -m morphseq_dagster.places.runner REQUEST.json` runs one request anywhere, without Dagster.

Holds the command only. It executes, commits and leaves the outcome in a file; files prove success, exit codes explain.
"""

from __future__ import annotations

import argparse
import ctypes
import importlib
import json
import os
import resource
import signal
import sys
from pathlib import Path

from morphseq_dagster.errors import TransientError, report
from morphseq_dagster.places.execution import execute_body, publish, read_request
from morphseq_dagster.places.outcome import DEFAULT_REGISTRY, RunnerOutcome
from morphseq_dagster.steps.contract import Registry
from morphseq_dagster.steps.progress import Progress, listening
from morphseq_dagster.storage.durable import write_durably
from morphseq_dagster.storage.records import encode

_PR_SET_PDEATHSIG = 1


def main(arguments: list[str] | None = None) -> int:
    """Run one request; return 0 when its result is published."""
    parser = argparse.ArgumentParser(prog="morphseq_dagster.places.runner", description=__doc__)
    parser.add_argument("request", type=Path)
    parser.add_argument("--registry", default=DEFAULT_REGISTRY, help="module:attribute of the registry")
    parser.add_argument("--outcome", type=Path, help="file for the record or the error")
    parser.add_argument("--usage", type=Path, help="file for peak memory and processor time")
    parser.add_argument("--place", default="subprocess", help="name of the place, for the record")
    parser.add_argument("--parent", type=int, help="end when this process ends: it holds the claim")
    options = parser.parse_args(arguments)
    if options.parent is not None:
        _end_with(options.parent)
    signal.signal(signal.SIGUSR1, _stop_in_time)
    request = read_request(options.request)
    registry = load_registry(options.registry)
    layout = registry.layout(Path(request.data_root))
    try:
        with listening(_print_progress):
            executed = execute_body(registry.spec(request.step), request=request, place=options.place)
        outcome = RunnerOutcome(record=publish(layout, executed=executed))
    except Exception as error:  # noqa: BLE001 - whatever a step raises is recorded and told to the caller
        outcome = RunnerOutcome(error=report(error))
        print(outcome.error.message if outcome.error else "", file=sys.stderr)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)  # the outcome is written whatever comes now
    if options.usage is not None:
        write_durably(options.usage, json.dumps(_measure()).encode())
    if options.outcome is not None:
        write_durably(options.outcome, encode(outcome))
    return 0 if outcome.error is None else 1


def load_registry(name: str) -> Registry:
    """Import a registry by `module:attribute`."""
    module, _, attribute = name.partition(":")
    registry: Registry = getattr(importlib.import_module(module), attribute)
    return registry


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


def _measure() -> dict[str, float]:
    """Peak memory of the largest process and processor time of all, this one and its ended children."""
    uses = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return {
        "max_rss_mb": round(max(use.ru_maxrss for use in uses) / 1024, 1),  # Linux counts in KiB
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
