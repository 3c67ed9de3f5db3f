"""What parked runs cost: processes, and the daemon's CPU time while it looks after them.

The runs are records of a real Dagster home with jobs in a real queue, which does not let them begin. They are put there
without the processes that would have put them there, whose cost is told by a few real ones.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import dagster as dg

from benchmarks.measure import Line
from morphseq_dagster.launchers.notes import Note, Notes, Parked, Site
from morphseq_dagster.launchers.vigil import FRESH_S
from morphseq_dagster.places.connection import close_connections
from morphseq_dagster.places.session import open_session, run_session
from morphseq_dagster.places.slurm import ParkedRun, SlurmPlace
from morphseq_dagster.settings import PlacesSettings
from morphseq_dagster.testing.chain import TOY, open_toy, write_words
from morphseq_dagster.testing.installation import Installation, parking_settings
from morphseq_dagster.testing.slurm_cluster import start_cluster
from morphseq_dagster.testing.slurm_gate import Gate

_TICKS = os.sysconf("SC_CLK_TCK")
_POLL_S = 10
_MINUTE_S = 60.0


@dg.job
def parked() -> None:
    """Nothing: its runs only wait."""


def measure_parking(scratch: Path, *, shared: Path, count: int = 200) -> list[Line]:
    """Put runs at rest, look at the daemon for a minute without and with them; then a few real ones from end to end."""
    cluster = start_cluster(shared / "slurm" / "local-slurm.sh", cpus="16", killwait="2", overmemorykill="1")
    os.environ["SLURM_CONF"] = cluster.environment["SLURM_CONF"]
    folder = scratch / "commands"
    folder.mkdir()
    gate = Gate(cluster, folder)
    places = PlacesSettings.model_validate({"letters": "slurm", "slurm": gate.settings()})
    live = Installation(scratch / "parking", parking_settings(poll_s=_POLL_S), places)
    live.start()
    try:
        alone_s, _ = _watch_daemon(live, gate=gate)
        gate.close()
        runs = _put_at_rest(live, gate=gate, count=count)
        with_s, asked = _watch_daemon(live, gate=gate)
        processes = sum(len(live.processes(run)) for run in runs)
        memory_mib = sum(_memory_mib(pid) for pid in _daemon(live))
        began = time.monotonic()
        live.terminate(runs[0])
        cancel_s = time.monotonic() - began
        rest = [attempt.job or "" for n in range(1, count) for attempt in live.attempts(_name(n))]
        cluster.ask("scancel", *rest)
        gate.open()
        _forget(live, runs)
        round_s = _measure_round(live)
    finally:
        live.stop(kill=True)
    name, told = "parking", f"{count} parked runs"
    return [
        Line(name, f"processes of {told}", processes, "", 0),
        Line(name, f"squeue per minute for {told}, poll {_POLL_S} s", asked, "", _MINUTE_S / _POLL_S + 1),
        Line(name, f"daemon's CPU per minute, {told}", with_s, "s"),
        Line(name, "daemon's CPU per minute, none", alone_s, "s"),
        Line(name, f"daemon's memory, {told}", memory_mib, "MiB"),
        Line(name, "terminate of one of them", cancel_s, "s"),
        Line(name, "one run, launch to SUCCESS, parked once", round_s, "s", note=f"poll {_POLL_S} s"),
    ]


def _put_at_rest(live: Installation, *, gate: Gate, count: int) -> list[str]:
    """Submit jobs as the processes of runs do, and leave the runs as those leave them."""
    notes, workspace = Notes(live.home), open_toy(live.data_root)
    spec, place = workspace.registry.steps[0], SlurmPlace(gate.settings(), registry=TOY, park=True)
    runs = []
    with dg.DagsterInstance.from_config(str(live.home)) as instance:
        for number in range(count):
            write_words(workspace.layout, _name(number), words={"A01": "fish"})
            run = instance.create_run_for_job(parked, status=dg.DagsterRunStatus.STARTED)
            with open_session(spec, workspace=workspace, experiment=_name(number), run_id=run.run_id) as session:
                try:
                    run_session(session, spec=spec, place=place)
                except ParkedRun as left:
                    _leave_note(notes, run.run_id, left=left, gate=gate)
            runs.append(run.run_id)
    close_connections()
    return runs


def _leave_note(notes: Notes, run_id: str, *, left: ParkedRun, gate: Gate) -> None:
    attempt, request = left.live.attempt, left.request
    told = Parked(
        step=request.step,
        experiment=request.experiment,
        key=attempt.folder.parent.name,
        number=attempt.number,
        job=left.live.job,
        folder=str(attempt.folder),
        since=time.time(),
    )
    site = Site(data_root=Path(request.data_root), slurm=gate.settings())
    with notes.hold(run_id):
        notes.write(Note(run_id=run_id, site=site, parked=told))


def _forget(live: Installation, runs: list[str]) -> None:
    with dg.DagsterInstance.from_config(str(live.home)) as instance:
        for run_id in runs:
            Notes(live.home).forget(run_id)
            instance.delete_run(run_id)


def _name(number: int) -> str:
    return f"202401{number // 28 % 9 + 1:02d}_n{number}"


def _daemon(live: Installation) -> list[int]:
    """Processes of the daemon."""
    return [pid for pid in live.servers if b"dagster._daemon" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def _watch_daemon(live: Installation, *, gate: Gate) -> tuple[float, int]:
    """CPU seconds of the daemon and of what it started, and its questions, in a minute."""
    time.sleep(2 * FRESH_S)
    (daemon,) = _daemon(live)
    before, asked = _cpu_s(daemon), len(gate.asked())
    time.sleep(_MINUTE_S)
    return _cpu_s(daemon) - before, len(gate.asked()) - asked


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(int(fields[index]) for index in (11, 12, 13, 14)) / _TICKS


def _memory_mib(pid: int) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS")), 0.0)


def _measure_round(live: Installation) -> float:
    run_id = live.launch(live.add("20240229"))
    began = time.monotonic()
    live.await_ends(run_id, seconds=300)
    return time.monotonic() - began
