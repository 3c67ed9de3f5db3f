"""What suspended runs cost, and what it takes to suspend and resume them: real runs, launched as by the web page.

Their jobs lie in a real queue, which lets none begin until all runs are suspended. Steps of the relay pipeline are
nothing but their own start, so that all that is measured is the price of the way.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import dagster as dg

from benchmarks.measure import Line
from morphseq_dagster.cluster.suspend.monitor import FRESH_S
from morphseq_dagster.cluster.suspend.state import WorkerStates
from morphseq_dagster.engine.layout import Layout
from morphseq_dagster.settings.machine import PlacesSettings
from morphseq_dagster.testing.relay import RELAY, word_file
from tests.support.installation import Installation, suspending_settings
from tests.support.slurm_cluster import start_cluster
from tests.support.slurm_gate import Gate

MANY = 200
_NAME = "suspended"
_TICKS = os.sysconf("SC_CLK_TCK")
_POLL_S, _WORKERS = 10, 4
_ENDS = {dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED}
_MINUTE_S = 60.0
_PATIENCE_S = 30.0
"""Seconds per run after which a benchmark that gets no further gives up."""


@dataclass(frozen=True)
class _Phase:
    """What it took to suspend all runs, or to bring them to their ends."""

    wall_s: float
    cpu_s: float
    processes: int


def measure_suspended(scratch: Path, *, shared: Path, count: int = MANY) -> list[Line]:
    """Suspend runs, watch the daemon for a minute without and with them, then see all runs through."""
    cluster = start_cluster(shared / "slurm" / "local-slurm.sh", cpus="16", killwait="2", overmemorykill="1")
    os.environ["SLURM_CONF"] = cluster.environment["SLURM_CONF"]
    gate = Gate(cluster, scratch / "commands")
    places = PlacesSettings.model_validate({"first": "slurm", "slurm": gate.settings()})
    settings = suspending_settings(poll_s=_POLL_S, max_workers=_WORKERS, max_concurrent_runs=_WORKERS)
    live = Installation(scratch / "suspended", settings, places, pipeline=RELAY)
    live.start()
    try:
        alone_s, _ = _watch_daemon(live, gate=gate)
        gate.close()
        runs, leaving = _suspend(live, count=count)
        with_s, asked = _watch_daemon(live, gate=gate)
        waiting = sum(len(live.processes(run)) for run in runs)
        memory_mib = _memory_mib(_daemon(live))
        gate.open()
        ending = _see_through(live, runs)
        _check(live, runs, gate=gate)
        round_s = _measure_round(live)
        gate.close()
        cancel_s = _measure_cancel(live)
    finally:
        gate.open()
        live.stop(kill=True)
    which = f"{count} suspended runs"
    return [
        Line(_NAME, f"processes of {which}", waiting, "", 0),
        Line(_NAME, f"squeue per minute for {which}, poll {_POLL_S} s", asked, "", _MINUTE_S / _POLL_S + 1),
        Line(_NAME, f"daemon's CPU per minute, {which}", with_s, "s"),
        Line(_NAME, "daemon's CPU per minute, none", alone_s, "s"),
        Line(_NAME, f"daemon's memory, {which}", memory_mib, "MiB"),
        Line(_NAME, f"launch of {count} to all suspended", leaving.wall_s, "s", note=_describe(leaving, count=count)),
        Line(_NAME, f"{count} jobs let go to all SUCCESS", ending.wall_s, "s", note=_describe(ending, count=count)),
        Line(_NAME, "one run, launch to SUCCESS, suspended once", round_s, "s", note=f"poll {_POLL_S} s"),
        Line(_NAME, "terminate of a suspended run", cancel_s, "s"),
    ]


def _suspend(live: Installation, *, count: int) -> tuple[list[str], _Phase]:
    """Launch runs and wait until all are suspended."""
    before, began = _cpu_s(_daemon(live)), time.monotonic()
    runs = [live.launch(_add(live, f"202401{n // 28 % 9 + 1:02d}_n{n}")) for n in range(count)]
    states, most = WorkerStates(live.home), 0

    def suspended() -> bool:
        nonlocal most
        at_work = states.at_work()
        most = max(most, at_work)
        return not at_work and len(states.suspended()) == count

    live.wait_for(suspended, seconds=_MINUTE_S + _PATIENCE_S * count, what="all runs to suspend")
    return runs, _Phase(time.monotonic() - began, _cpu_s(_daemon(live)) - before, most)


def _see_through(live: Installation, runs: Sequence[str]) -> _Phase:
    """Wait for the ends of all runs."""
    before, began = _cpu_s(_daemon(live)), time.monotonic()
    states, most = WorkerStates(live.home), 0

    def ended() -> bool:
        nonlocal most
        most = max(most, states.at_work())
        return not states.suspended() and set(_statuses(live, runs)) <= _ENDS

    live.wait_for(ended, seconds=_MINUTE_S + _PATIENCE_S * len(runs), what="all runs to end")
    return _Phase(time.monotonic() - began, _cpu_s(_daemon(live)) - before, most)


def _check(live: Installation, runs: Sequence[str], *, gate: Gate) -> None:
    """Raise unless each run is a success, with one submission and one execution."""
    attempts = [a for folder in Layout(live.data_root).jobs.glob("first/*") for a in live.attempts(folder.name)]
    found = {
        "successes": _statuses(live, runs)[dg.DagsterRunStatus.SUCCESS],
        "submissions": len(gate.calls("sbatch")),
        "attempts": len(attempts),
        "executions": sum(attempt.record("start") is not None for attempt in attempts),
        "verdicts done": sum((attempt.record("closed") or {}).get("kind") == "done" for attempt in attempts),
    }
    if set(found.values()) != {len(runs)}:
        raise RuntimeError(f"{len(runs)} runs, but {found}")


def _statuses(live: Installation, runs: Sequence[str]) -> Counter[dg.DagsterRunStatus]:
    with dg.DagsterInstance.from_config(str(live.home)) as instance:
        return Counter(run.status for run in instance.get_runs(dg.RunsFilter(run_ids=list(runs))))


def _add(live: Installation, experiment: str) -> str:
    path = word_file(Layout(live.data_root), experiment)
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"{experiment}\n")
    live.register(experiment)
    return experiment


def _describe(phase: _Phase, *, count: int) -> str:
    return f"{phase.cpu_s / count:.1f} CPU-s per run, at most {phase.processes} processes at once"


def _daemon(live: Installation) -> int:
    """Process of the daemon."""
    (found,) = [pid for pid in live.servers if b"dagster._daemon" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    return found


def _watch_daemon(live: Installation, *, gate: Gate) -> tuple[float, int]:
    """CPU seconds of the daemon and of what it started, and its questions, in a minute."""
    time.sleep(2 * FRESH_S)
    daemon = _daemon(live)
    before, asked = _cpu_s(daemon), len(gate.asked())
    time.sleep(_MINUTE_S)
    return _cpu_s(daemon) - before, len(gate.asked()) - asked


def _cpu_s(pid: int) -> float:
    """CPU seconds of a process and of all its children that have ended: of the daemon, those of runs."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(int(fields[index]) for index in (11, 12, 13, 14)) / _TICKS


def _memory_mib(pid: int) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS")), 0.0)


def _measure_round(live: Installation) -> float:
    began = time.monotonic()
    run_id = live.launch(_add(live, "20240229"))
    if live.await_ends(run_id, seconds=300) != ["SUCCESS"]:
        raise RuntimeError("the run failed")
    return time.monotonic() - began


def _measure_cancel(live: Installation) -> float:
    run_id = live.launch(_add(live, "20240301"))
    live.await_suspended(run_id, seconds=300)
    began = time.monotonic()
    live.terminate(run_id)
    return time.monotonic() - began
