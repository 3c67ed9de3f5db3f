"""`python -m benchmarks`: run the benchmarks, print a table, save it as JSON under benchmarks/results."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from benchmarks.bulk import measure_bulk
from benchmarks.dagster_slurm import measure_dagster_slurm
from benchmarks.measure import ROOT, Line
from benchmarks.runs import measure_demo, measure_places, measure_real
from benchmarks.staleness import measure_staleness
from benchmarks.status import measure_status
from benchmarks.storage import measure_storage
from benchmarks.suspended import MANY, measure_suspended

NAMES = ("real", "demo", "places", "status", "staleness", "storage", "bulk", "dagster_slurm", "suspended")
_RESULTS = ROOT / "benchmarks" / "results"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--only", help=f"names separated by commas, of {', '.join(NAMES)}")
    parser.add_argument("--repeats", type=int, default=3, help="runs of short benchmarks; the median counts")
    parser.add_argument("--scratch", type=Path, help="folder for temporary data [default: the system's]")
    parser.add_argument("--suspended", type=int, default=MANY, help=f"runs of `suspended` [default: {MANY}]")
    options = parser.parse_args()
    chosen = NAMES if options.only is None else tuple(options.only.split(","))
    if unknown := set(chosen) - set(NAMES):
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    shared = Path(os.environ.get("MORPHSEQ_SHARED", ROOT.parent / "shared"))
    for needy in ("real", "bulk", "dagster_slurm", "suspended"):
        if needy in chosen and not shared.is_dir():
            print(f"{needy}: left out, {shared} is not there (MORPHSEQ_SHARED names another folder)", file=sys.stderr)
            chosen = tuple(name for name in chosen if name != needy)
    lines: list[Line] = []
    with tempfile.TemporaryDirectory(dir=options.scratch) as name:
        scratch = Path(name)
        ways: dict[str, Callable[[], list[Line]]] = {
            "real": lambda: measure_real(scratch, shared=shared),
            "demo": lambda: measure_demo(scratch),
            "places": lambda: measure_places(scratch),
            "status": lambda: measure_status(scratch, repeats=options.repeats),
            "staleness": lambda: measure_staleness(scratch, repeats=options.repeats),
            "storage": lambda: measure_storage(scratch, repeats=options.repeats),
            "bulk": lambda: measure_bulk(scratch, shared=shared),
            "dagster_slurm": lambda: measure_dagster_slurm(scratch, shared=shared),
            "suspended": lambda: measure_suspended(scratch, shared=shared, count=options.suspended),
        }
        for benchmark in chosen:
            print(f"{benchmark} ...", file=sys.stderr, flush=True)
            lines += ways[benchmark]()
    print("\n".join(_draw(lines)))
    print(f"\nsaved as {_save(lines)}")
    return 0


def _draw(lines: list[Line]) -> list[str]:
    width = max(len(line.what) for line in lines)
    text = [f"{'':<{width}}  {'measured':>9}  {'limit':>7}"]
    last = ""
    for line in lines:
        if line.benchmark != last:
            last = line.benchmark
            text += ["", line.benchmark]
        limit = "" if line.limit is None else f"{line.limit:g}"
        verdict = {True: "holds", False: "EXCEEDED", None: ""}[line.holds]
        remark = ", ".join(part for part in (verdict, line.note) if part)
        text.append(f"{line.what:<{width}}  {_number(line):>9}  {limit:>7}  {line.unit:<6} {remark}".rstrip())
    return text


def _number(line: Line) -> str:
    return f"{line.measured:.0f}" if line.unit == "MiB" else f"{line.measured:.2f}"


def _save(lines: list[Line]) -> Path:
    now = datetime.now(UTC)
    _RESULTS.mkdir(exist_ok=True)
    path = _RESULTS / f"{now:%Y%m%dT%H%M%SZ}.json"
    result = {
        "at": now.isoformat(timespec="seconds"),
        "version": version("morphseq-dagster"),
        "python": platform.python_version(),
        "processors": os.cpu_count(),
        "load": os.getloadavg()[0],
        "lines": [line.encode() for line in lines],
    }
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return path


if __name__ == "__main__":
    sys.exit(main())
