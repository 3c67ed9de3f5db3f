"""Usage: how long a job waited and ran and what it used, from its own files; accounting adds what they lack.

The numbers are for people. Times come from the clocks of submit host and node, so a wait may be off by their
difference.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from morphseq_dagster.cluster.attempt_folder import Attempt
from morphseq_dagster.cluster.commands import Row, parse_clock_s
from morphseq_dagster.cluster.job_files import resources_of
from morphseq_dagster.cluster.job_handle import JobVerdict
from morphseq_dagster.cluster.outcome import JobOutcome
from morphseq_dagster.settings.job_values import Resources

USAGE_FILE = "usage.json"
"""Written by the command when it can: `max_rss_mb`, `cpu_s`, and the hashes `environment` and `preamble`."""


@dataclass(frozen=True, kw_only=True)
class JobFacts:
    """One attempt in numbers; None where nobody knows.

    Parameters
    ----------
    job, cluster, node
        Number, cluster and node.
    attempt, restarts
        Number of the attempt, and how often the scheduler started it again.
    state, outcome
        Its end in the scheduler's word and in ours.
    queue_s, run_s, cpu_s
        Seconds from submission to start, from start to end, and of processors.
    cpu_efficiency
        Processor time as a share of what was allocated, 0 to 1.
    max_rss_mb, memory_mb
        Peak and requested memory in MiB.
    gpus
        GPUs given, as the node names them.
    log
        Path of the log.
    environment, preamble
        Hashes of the command's environment and of the preamble, where the command reports them.
    """

    job: str
    cluster: str
    node: str
    attempt: int
    restarts: int
    state: str
    outcome: str
    queue_s: float | None
    run_s: float | None
    cpu_s: float | None
    cpu_efficiency: float | None
    max_rss_mb: float | None
    memory_mb: float | None
    gpus: str
    log: str
    environment: str = ""
    preamble: str = ""

    def as_dict(self) -> dict[str, str | int | float]:
        """What is known, by name."""
        return {name: value for name, value in asdict(self).items() if value is not None and value != ""}


def collect_facts(attempt: Attempt, *, verdict: JobVerdict, account: Row | None = None) -> JobFacts:
    """Collect the facts in an attempt's files, and in accounting if it was asked."""
    intent = attempt.intent
    job = (attempt.pilot or attempt).record("job") or {}
    start, end, usage = attempt.record("start") or {}, attempt.record("end") or {}, attempt.record("usage") or {}
    run_s = _between(start, end)
    cpu_s = _first(_number(usage, "cpu_s"), _cpu_of(end), account.cpu_s if account is not None else None)
    resources = resources_of(attempt) or Resources()
    cpus = resources.cpus
    return JobFacts(
        job=verdict.job or attempt.job or "",
        cluster=str(job.get("cluster", "")),
        node=verdict.node or str(start.get("node", "")),
        attempt=attempt.number,
        restarts=int(start.get("restart", 0)),
        state=verdict.state,
        outcome=verdict.outcome.value,
        queue_s=_between(intent, start),
        run_s=run_s,
        cpu_s=cpu_s,
        cpu_efficiency=round(min(1.0, cpu_s / (run_s * cpus)), 3) if cpu_s is not None and run_s else None,
        max_rss_mb=_first(_number(usage, "max_rss_mb"), account.max_rss_mb if account is not None else None),
        memory_mb=resources.memory_mb,
        gpus=str(start.get("gpus", "")),
        log=str(attempt.path("log.txt")),
        environment=str(usage.get("environment", "")),
        preamble=str(usage.get("preamble", "")),
    )


def recall_facts(attempt: Attempt) -> JobFacts:
    """Collect the facts in a closed attempt's files."""
    closed = attempt.record("closed") or {}
    verdict = JobVerdict(
        outcome=JobOutcome(closed.get("kind", JobOutcome.DONE.value)),
        state=str(closed.get("state", "")),
        reason=str(closed.get("reason", "")),
        job=attempt.job or "",
    )
    return collect_facts(attempt, verdict=verdict)


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


def _first(*values: float | None) -> float | None:
    return next((value for value in values if value is not None), None)
