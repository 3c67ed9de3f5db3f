"""Ends: jobs that end in every way that a Slurm of one machine can show, with the outcome that each must get.

The jobs are made here, and what is done to them from outside. A test chooses who watches them, and when; the same list
is run on clusters with and without accounting, and on controllers that forget soon.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from typing import Final

from morphseq_dagster.cluster.job import JobSpec
from morphseq_dagster.cluster.job_handle import AlreadyDone, JobHandle
from morphseq_dagster.cluster.outcome import JobOutcome
from morphseq_dagster.settings.job_values import Resources
from tests.support.slurm_bench import Bench, wait_for

_MINUTE: Final = Resources(memory="64M", time="1")
_HOG: Final = "exec python3 -c 'import time; x = bytearray(300 * 2**20); time.sleep(60)'"


@dataclass(frozen=True)
class Ending:
    """A job that ends, or is about to, and what its end must be called."""

    live: JobHandle
    outcome: JobOutcome


def begin_time_limits(bench: Bench) -> dict[str, Ending]:
    """Begin jobs that meet their time limit; the shortest is a minute."""
    heed = f"trap 'touch {bench.root}/warned; kill $!; exit 3' USR1; sleep 300 & wait"
    bodies = {
        "limit": ("sleep 300", 0),
        "limit, warned and deaf": ("exec sleep 300", 15),
        "limit, warned and heeding": (heed, 15),
    }
    return {
        name: Ending(
            _ensure(bench, bench.spec(_file(name), body, resources=_MINUTE, warn_s=warn_s)), JobOutcome.TIMEOUT
        )
        for name, (body, warn_s) in bodies.items()
    }


def begin_ends(bench: Bench, *, memory: bool = True) -> dict[str, Ending]:
    """Begin jobs of all other ends, and do from outside what ends them.

    Parameters
    ----------
    bench
        Bench on a cluster that is idle but for jobs that leave the second node free.
    memory
        Whether the cluster ends jobs over their memory.
    """
    small = Resources(memory="64M", time="5")
    bodies = {
        "done": ("", small, JobOutcome.DONE),
        "no result": ("exit 0", small, JobOutcome.FAILED),
        "raises": ("python3 -c 'raise ValueError(1)' || exit 1", small, JobOutcome.FAILED),
        "code 7": ("exit 7", small, JobOutcome.FAILED),
        "SIGSEGV": ("kill -SEGV $$", small, JobOutcome.CRASH),
        "SIGKILL": ("kill -KILL $$", small, JobOutcome.KILLED),
        "no program": ("exec /no/such/program", small, JobOutcome.CONFIG),
        "scancel": ("sleep 280", small, JobOutcome.CANCELLED),
        "scancel -b -s KILL": ("sleep 280", small, JobOutcome.CANCELLED),
    }
    if memory:
        bodies["over memory"] = (_HOG, replace(small, memory="32M"), JobOutcome.OOM)
    ends = {
        name: Ending(_ensure(bench, bench.spec(_file(name), body, resources=resources)), outcome)
        for name, (body, resources, outcome) in bodies.items()
    }
    for name, options in (("scancel", ()), ("scancel -b -s KILL", ("-b", "-f", "-s", "KILL"))):
        bench.until_running(ends[name].live)
        bench.cluster.ask("scancel", *options, ends[name].live.job)
    return ends | _end_on_second_node(bench)


def _end_on_second_node(bench: Bench) -> dict[str, Ending]:
    """Ends for which jobs must wait, and the one for which their node must go down."""
    whole = Resources(cpus=16, exclude="n1", memory="64M", time="5")
    lost = _ensure(bench, replace(bench.spec("node-down", "sleep 280", resources=whole), requeue=False))
    bench.until_running(lost)
    pending = _ensure(bench, bench.spec("scancel-pending", resources=whole))
    bench.cluster.ask("scancel", pending.job)
    homeless = _ensure(bench, bench.spec("no-folder", resources=whole))
    away = bench.root / "away"
    shutil.move(homeless.attempt.folder, away)
    bench.cluster.ask("scontrol", "update", "nodename=n2", "state=down", "reason=test")
    bench.cluster.ask("scontrol", "update", "nodename=n2", "state=resume")

    def has_ended() -> bool:
        return bench.cluster.ask("squeue", "-h", "-t", "PD,R,CG", "-j", homeless.job, "-o", "%i").strip() == ""

    wait_for(has_ended)
    shutil.move(away, homeless.attempt.folder)
    return {
        "node down": Ending(lost, JobOutcome.NODE),
        "scancel pending": Ending(pending, JobOutcome.CANCELLED),
        "no folder": Ending(homeless, JobOutcome.CONFIG),
    }


def _ensure(bench: Bench, spec: JobSpec) -> JobHandle:
    live = bench.ensure(spec)
    if isinstance(live, AlreadyDone):
        raise TypeError("the request is done already")
    return live


def _file(name: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in name)
