"""Usage: how long a job waited and ran and what it used, from the files in its folder.

Times come from the clocks of submit host and node, so a wait may be off by their difference. Peak memory and processor
time are in `usage.json`, which the engine's runner writes.
"""

from __future__ import annotations

from typing import Any

from morphseq_dagster.cluster.attempt_folder import Attempt
from morphseq_dagster.cluster.commands import parse_clock_s
from morphseq_dagster.cluster.job_files import resources_of
from morphseq_dagster.cluster.job_handle import JobVerdict
from morphseq_dagster.cluster.outcome import JobOutcome
from morphseq_dagster.settings.job_values import Resources


def collect_facts(attempt: Attempt, *, verdict: JobVerdict) -> dict[str, str | int | float]:
    """Collect what is known of an attempt, for people.

    Names are `job`, `cluster`, `node`, `attempt` (its number), `restarts` by the scheduler, `state` (the
    scheduler's), `outcome` (ours), `queue_s` and `run_s` (from submission to start to end), `cpu_s`, `cpu_efficiency`
    (its share of the processor time allocated, 0 to 1), `max_rss_mb` and `memory_mb` (peak and requested memory in
    MiB), `gpus` as the node names them, `log` (its path), and the hashes `environment` and `preamble` where the
    command reports them.
    """
    job = (attempt.pilot or attempt).record("job") or {}
    start, end, usage = attempt.record("start") or {}, attempt.record("end") or {}, attempt.record("usage") or {}
    run_s, cpu_s = _between(start, end), _number(usage, "cpu_s")
    cpu_s = _cpu_of(end) if cpu_s is None else cpu_s
    resources = resources_of(attempt) or Resources()
    share = round(min(1.0, cpu_s / (run_s * resources.cpus)), 3) if cpu_s is not None and run_s else None
    facts: dict[str, str | int | float | None] = {
        "job": verdict.job or attempt.job or "",
        "cluster": str(job.get("cluster", "")),
        "node": verdict.node or str(start.get("node", "")),
        "attempt": attempt.number,
        "restarts": int(start.get("restart", 0)),
        "state": verdict.state,
        "outcome": verdict.outcome.value,
        "queue_s": _between(attempt.intent, start),
        "run_s": run_s,
        "cpu_s": cpu_s,
        "cpu_efficiency": share,
        "max_rss_mb": _number(usage, "max_rss_mb"),
        "memory_mb": resources.memory_mb,
        "gpus": str(start.get("gpus", "")),
        "log": str(attempt.path("log.txt")),
        "environment": str(usage.get("environment", "")),
        "preamble": str(usage.get("preamble", "")),
    }
    return {name: value for name, value in facts.items() if value is not None and value != ""}


def recall_facts(attempt: Attempt) -> dict[str, str | int | float]:
    """Collect what is known of a closed attempt."""
    closed = attempt.record("closed") or {}
    outcome = JobOutcome(closed.get("kind", JobOutcome.DONE))
    state, reason = str(closed.get("state", "")), str(closed.get("reason", ""))
    return collect_facts(attempt, verdict=JobVerdict(outcome, state, reason, attempt.job or ""))


def _between(first: dict[str, Any], last: dict[str, Any]) -> float | None:
    if "t" not in first or "t" not in last:
        return None
    return round(max(0.0, float(last["t"]) - float(first["t"])), 3)


def _cpu_of(end: dict[str, Any]) -> float | None:
    """Read what the shell's `times` prints of its children: `0m1.234s 0m0.056s`."""
    parts = [parse_clock_s(part.rstrip("s").replace("m", ":")) for part in str(end.get("cpu", "")).split()]
    known = [part for part in parts if part is not None]
    return round(sum(known), 3) if known else None


def _number(record: dict[str, Any], name: str) -> float | None:
    value = record.get(name)
    return float(value) if isinstance(value, int | float) else None
