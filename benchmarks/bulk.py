"""Many experiments at a cluster of this machine: one bulk run against bare `sbatch`, packs, chains, cancelling.

Wall time counts here, since most of it is the scheduler's and the jobs'; it is told as a ratio to bare jobs of the same
minute. As a program it is the measured process itself: `walk` makes a bulk run of the first step and says what it cost.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.measure import ROOT, Line
from morphseq_dagster.cluster.bulk_run import BulkRun
from morphseq_dagster.cluster.connection import connect
from morphseq_dagster.cluster.executor import SlurmExecutor
from morphseq_dagster.cluster.experiment_progress import StepMade
from morphseq_dagster.engine.workspace import Workspace
from morphseq_dagster.settings.machine import MachineSettings
from morphseq_dagster.settings.slurm import SlurmSettings
from morphseq_dagster.testing.relay import RELAY, RELAY_PIPELINE
from tests.support.relay_bulk import add_experiments, attempts_of, count_records, slow_down
from tests.support.slurm_bench import wait_for
from tests.support.slurm_cluster import LocalCluster, start_cluster

MANY, CANCELLED, TAKEN_OVER, TRIES = 200, 50, 20, 5
_STEP = "first"
_NAME = "bulk"


def measure_bulk(scratch: Path, *, shared: Path) -> list[Line]:
    """Measure a bulk run of many partitions, its cancelling, its taking over, and one job alone."""
    cluster = start_cluster(shared / "slurm" / "local-slurm.sh", cpus="16", killwait="2", overmemorykill="1")
    os.environ["SLURM_CONF"] = cluster.environment["SLURM_CONF"]
    lines = [_measure_one(cluster, scratch / "one")]
    for transport in ("local", "ssh"):
        lines += _measure_many(cluster, scratch / f"many_{transport}", transport=transport)
    lines += _measure_packed(scratch / "packed")
    lines.append(_measure_chain(cluster, scratch / "chain"))
    lines += _measure_cancel(cluster, scratch)
    lines.append(_measure_adoption(scratch / "adopt"))
    return lines


def _measure_one(cluster: LocalCluster, folder: Path) -> Line:
    """One job from claim to verified result, in turn with `sbatch --wait`."""
    workspace, names = make_root(folder, count=TRIES)
    script = _write_bare(folder)
    place = SlurmExecutor(make_settings(cluster, "local"), pipeline=RELAY)
    bare, own = [], []
    for name in names:
        began = time.perf_counter()
        subprocess.run(["sbatch", "--wait", str(script)], check=True, stdout=subprocess.DEVNULL)
        bare.append(time.perf_counter() - began)
        began = time.perf_counter()
        with BulkRun(workspace, chains={name: (_STEP,)}, executor_of=lambda *_: place, run_id="one") as bulk:
            if not all(isinstance(item, StepMade) for item in bulk.events()):
                raise RuntimeError("the job failed")
        own.append(time.perf_counter() - began)
    ratio = statistics.median(own) / statistics.median(bare)
    note = f"{statistics.median(own):.2f} s against {statistics.median(bare):.2f} s, {TRIES} each"
    return Line(_NAME, "one trivial job against sbatch --wait", ratio, "x", 1.0, note)


def _measure_many(cluster: LocalCluster, folder: Path, *, transport: str) -> list[Line]:
    workspace, names = make_root(folder, count=MANY)
    bare = _run_bare(folder)
    said = _walk(workspace, names, settings=make_settings(cluster, transport))
    if said["events"] != MANY or said["versions"] != MANY:
        raise RuntimeError(f"{said['events']} events with {said['versions']} versions, not {MANY}")
    what = f"{MANY} partitions, transport {transport}"
    note = f"{said['seconds']:.1f} s against {bare:.1f} s, {said['cpu_s']:.1f} CPU-s in the run's process"
    lines = [
        Line(_NAME, f"{what}, against as many sbatch", said["seconds"] / bare, "x", 7.5, note),
        Line(_NAME, "  memory of its one process", said["memory_mib"], "MiB", 150),
        Line(_NAME, "  calls of squeue", said["calls"].get("squeue", 0), "", 40),
    ]
    return lines if transport == "local" else [*lines, Line(_NAME, "  logins", said["logins"], "", 1)]


def _measure_packed(folder: Path) -> list[Line]:
    """One allocation for many partitions of a small step, against as many bare jobs."""
    workspace, names = make_root(folder, count=MANY)
    bare = _run_bare(folder)
    steps = {_STEP: {"small": True}}
    said = _walk(workspace, names, settings=SlurmSettings.model_validate({**_RESOURCES, "steps": steps}))
    if said["events"] != MANY or said["versions"] != MANY:
        raise RuntimeError(f"{said['events']} events with {said['versions']} versions, not {MANY}")
    note = f"{said['seconds']:.1f} s against {bare:.1f} s, {said['cpu_s']:.1f} CPU-s in the run's process"
    return [
        Line(_NAME, f"{MANY} partitions packed, against as many sbatch", said["seconds"] / bare, "x", 1.2, note),
        Line(_NAME, "  submissions", said["calls"].get("sbatch", 0), "", 1),
    ]


def _measure_chain(cluster: LocalCluster, folder: Path) -> Line:
    """One job for all steps of an experiment, in turn with a job for each."""
    workspace, names = make_root(folder, count=2 * TRIES)
    steps = tuple(spec.name for spec in workspace.pipeline.steps)
    told: dict[bool, list[float]] = {False: [], True: []}
    for number, name in enumerate(names):
        chain = number % 2 == 1
        place = SlurmExecutor(make_settings(cluster, "local").model_copy(update={"chain": chain}), pipeline=RELAY)
        began = time.perf_counter()
        with BulkRun(workspace, chains={name: steps}, executor_of=lambda *_, place=place: place, run_id="c") as bulk:
            if sum(isinstance(item, StepMade) for item in bulk.events()) != len(steps):
                raise RuntimeError("a step failed")
        told[chain].append(time.perf_counter() - began)
    one, each = statistics.median(told[True]), statistics.median(told[False])
    note = f"{one:.2f} s against {each:.2f} s, {TRIES} each, empty queue"
    return Line(_NAME, f"one job for {len(steps)} steps against a job for each", one / each, "x", None, note)


def _measure_cancel(cluster: LocalCluster, scratch: Path) -> list[Line]:
    """Seconds from TERM to the bulk run until the last of its jobs has left the queue.

    Half of them have begun, and on this machine their starting takes the processors that the end of others wants: then
    `scancel` itself takes long, and is told beside. Hence the same once more when all that have begun are at work.
    """
    starting = _time_cancel(cluster, scratch / "cancel_starting")
    working = _time_cancel(cluster, scratch / "cancel_working", at_work=True)
    bare = _time_cancel(cluster, scratch / "cancel_bare", bare=True)
    what, note = f"cancel of {CANCELLED} jobs, to the last one gone", f"bare {bare:.2f} s"
    return [
        Line(_NAME, what, starting, "s", 1.0, "half of them just begun, none at work"),
        Line(_NAME, "  against a bare scancel in the same state", starting / bare, "x", 1.0, note),
        Line(_NAME, f"{what}, all at work", working, "s", 1.0),
    ]


def _time_cancel(cluster: LocalCluster, folder: Path, *, at_work: bool = False, bare: bool = False) -> float:
    """Seconds, with the jobs that have begun all at work or none of them yet."""
    for number in range(TRIES):
        gone, were_at_work = _cancel(cluster, folder / str(number), at_work=at_work, bare=bare)
        if were_at_work == {at_work}:
            return gone
    raise RuntimeError(f"{TRIES} times some jobs were at work already when all had been submitted")


def _cancel(cluster: LocalCluster, folder: Path, *, at_work: bool, bare: bool) -> tuple[float, set[bool]]:
    """Cancel a bulk run, or its jobs; seconds, and whether they had come to their work."""
    workspace, names = make_root(folder, count=CANCELLED, slow_s=120)
    child = _start(workspace, names, settings=make_settings(cluster, "local"))
    wait_for(lambda: count_records(workspace, "job") == CANCELLED)
    wait_for(lambda: count_records(workspace, "start") >= CANCELLED // 2)
    if at_work:
        wait_for(lambda: _are_at_work(workspace) == {True})
    jobs = {str(attempt.job) for attempt in attempts_of(workspace)}
    were_at_work = _are_at_work(workspace)
    began = time.perf_counter()
    if bare:
        cluster.ask("scancel", *sorted(jobs))
    else:
        child.send_signal(signal.SIGTERM)
    while jobs & set(cluster.ask("squeue", "-h", "-o", "%i").split()):
        pass
    gone = time.perf_counter() - began
    child.terminate()
    child.communicate()
    return gone, were_at_work


def _measure_adoption(folder: Path) -> Line:
    """Submissions of a bulk run that finds the jobs of a killed one."""
    workspace, names = make_root(folder, count=TAKEN_OVER, slow_s=5)
    settings = SlurmSettings.model_validate(_RESOURCES)
    child = _start(workspace, names, settings=settings)
    wait_for(lambda: count_records(workspace, "job") == TAKEN_OVER)
    child.kill()
    child.communicate()
    said = _walk(workspace, names, settings=settings)
    if said["events"] != TAKEN_OVER:
        raise RuntimeError(f"{said['events']} events, not {TAKEN_OVER}")
    return Line(_NAME, f"taking over {TAKEN_OVER} jobs: submissions", said["calls"].get("sbatch", 0), "", 0)


_RESOURCES: dict[str, Any] = {"resources": {"memory": "100M", "time": 10}}


def make_settings(cluster: LocalCluster, transport: str) -> SlurmSettings:
    """Settings of jobs of the first step over a transport."""
    values: dict[str, Any] = {**_RESOURCES, "transport": transport}
    if transport == "ssh":
        address = cluster.address()
        values["ssh"] = {name: getattr(address, name) for name in ("host", "port", "user", "key", "known_hosts")}
    return SlurmSettings.model_validate(values)


def make_root(folder: Path, *, count: int, slow_s: float = 0.0) -> tuple[Workspace, list[str]]:
    """Make a data root of so many experiments."""
    workspace = Workspace(folder / "root", RELAY_PIPELINE)
    names = add_experiments(workspace, count)
    slow_down(workspace, slow_s)
    return workspace, names


def _write_bare(folder: Path) -> Path:
    script = folder / "bare.sh"
    memory = _RESOURCES["resources"]["memory"]
    head = f"#!/bin/bash\n#SBATCH --mem={memory}\n#SBATCH --output={folder}/%j.log\n"
    script.write_text(f"{head}{sys.executable} -c pass\n")
    return script


def _run_bare(folder: Path) -> float:
    """Seconds that bare jobs take from the first submission to the last end."""
    script = _write_bare(folder)
    began = time.perf_counter()
    for _ in range(MANY):
        subprocess.run(["sbatch", str(script)], check=True, stdout=subprocess.DEVNULL)
    while subprocess.run(["squeue", "-h", "-o", "%i"], check=True, capture_output=True).stdout.strip():
        time.sleep(0.1)
    return time.perf_counter() - began


def command_of(workspace: Workspace, names: Sequence[str], *, settings: SlurmSettings) -> list[str]:
    """Command of the measured process, to be run in the checkout."""
    told = [str(workspace.data_root), settings.model_dump_json(), ",".join(names)]
    return [sys.executable, "-m", "benchmarks.bulk", *told]


def _start(workspace: Workspace, names: Sequence[str], *, settings: SlurmSettings) -> subprocess.Popen[str]:
    command = command_of(workspace, names, settings=settings)
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def _walk(workspace: Workspace, names: Sequence[str], *, settings: SlurmSettings) -> dict[str, Any]:
    child = _start(workspace, names, settings=settings)
    out, err = child.communicate()
    if child.returncode != 0:
        raise RuntimeError(f"the bulk run failed:\n{err[-4000:]}")
    said: dict[str, Any] = json.loads(out.splitlines()[-1])
    return said


def _are_at_work(workspace: Workspace) -> set[bool]:
    """Of the jobs that have begun, whether they have come to their work."""
    logs = [attempt.path("log.txt") for attempt in attempts_of(workspace) if attempt.record("start")]
    return {log.exists() and "at work" in log.read_text() for log in logs}


def main(data_root: str, cluster: str, names: str) -> int:
    """Make a bulk run of the first step; print what it cost as JSON."""
    import dagster as dg

    import morphseq_dagster
    from morphseq_dagster.build import build_definitions
    from morphseq_dagster.partitions import BULK_JOB, bulk_config, register_keys

    slurm = SlurmSettings.model_validate_json(cluster)
    values = {"data_root": data_root, "place": "slurm", "places": {"slurm": slurm.model_dump()}}
    settings = MachineSettings.model_validate(values)
    home = Path(data_root).with_name("home")
    home.mkdir(exist_ok=True)
    shutil.copyfile(Path(morphseq_dagster.__file__).parent / "templates" / "dagster.yaml", home / "dagster.yaml")
    experiments = names.split(",")
    with dg.DagsterInstance.from_config(str(home)) as instance:
        register_keys(instance, experiments, pipeline=RELAY_PIPELINE)
        job = build_definitions(settings, pipeline=RELAY).resolve_job_def(BULK_JOB)
        quiet = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
        began = time.perf_counter()
        result = job.execute_in_process(
            instance=instance, run_config={**quiet, **bulk_config(experiments, steps=[_STEP])}, raise_on_error=False
        )
        seconds = time.perf_counter() - began
        records = instance.fetch_materializations(dg.AssetKey(_STEP), limit=1000).records
    told = [record.asset_materialization for record in records]
    used = resource.getrusage(resource.RUSAGE_SELF)
    scheduler = connect(slurm, data_root=Path(data_root))[0].scheduler
    said = {
        "seconds": seconds,
        "cpu_s": used.ru_utime + used.ru_stime,
        "memory_mib": used.ru_maxrss / 1024,
        "calls": dict(scheduler.calls),
        "logins": getattr(scheduler._transport, "logins", 0),
        "events": len(records),
        "versions": len({(event.tags or {}).get("dagster/data_version") for event in told if event is not None}),
    }
    print(json.dumps(said))
    return 0 if result.success else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
