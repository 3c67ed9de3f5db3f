"""dagster-slurm by itself beside ours: as many trivial jobs over the same login node of a cluster of this machine.

dagster-slurm has no bulk: twenty jobs are twenty partitions, one run and one process each. Ours is one bulk run, whose
jobs are steps with a claim, a record and an environment that is checked; its client alone is told beside it. Each way
starts from nothing, a Python without imports, and ends when all jobs are known to have ended; the ways take turns, so
that ratios bear a busy machine. The SSH server takes any number of sessions: at its defaults dagster-slurm loses some
of twenty jobs.
"""

from __future__ import annotations

import os
import signal
import statistics
import subprocess
import sys
from pathlib import Path

from benchmarks.bulk import command_of, make_root, make_settings
from benchmarks.measure import Cost, Line, run_program
from morphseq_dagster.settings.ssh_address import SshAddress
from tests.support.slurm_cluster import LocalCluster, start_cluster

ROUNDS = {1: 3, 20: 1}
"""How often each number of jobs is measured."""
_NAME = "dagster_slurm"

_ALONE = """
import subprocess, sys
root, count, *login = sys.argv[1:]
program = '''
import sys
import dagster as dg
from dagster_slurm import BashLauncher, ComputeResource, SlurmQueueConfig, SlurmResource, SSHConnectionResource
root, number, host, port, user, key, known = sys.argv[1:]
ssh = SSHConnectionResource(host=host, port=int(port), user=user, key_path=key, known_hosts_file=known)
queue = SlurmQueueConfig(partition="cpu", cpus=1, mem="64M", time_limit="00:05:00")
slurm = SlurmResource(ssh=ssh, remote_base=root + "/base", queue=queue)
compute = ComputeResource(
    mode="slurm", default_launcher=BashLauncher(), pre_deployed_env_path=root + "/env", slurm=slurm
)
@dg.asset(partitions_def=dg.StaticPartitionsDefinition([number]))
def step(context: dg.AssetExecutionContext, compute: ComputeResource):
    return compute.run(context=context, payload_path=root + "/payload.py").get_results()
dg.materialize([step], resources={"compute": compute}, partition_key=number)
'''
command = [sys.executable, "-c", program, root]
runs = [subprocess.Popen([*command, str(n), *login]) for n in range(int(count))]
print(sum(run.wait() != 0 for run in runs))
"""

_CLIENT = """
import sys
from pathlib import Path
from morphseq_dagster.cluster.client import Client
from morphseq_dagster.cluster.job_handle import Timeouts
from morphseq_dagster.cluster.commands import Scheduler
from morphseq_dagster.cluster.attempt_folder import JobRoot
from morphseq_dagster.cluster.job import JobSpec
from morphseq_dagster.settings.job_values import Resources
from morphseq_dagster.cluster.outcome import JobOutcome
from morphseq_dagster.cluster.poller import Poller
from morphseq_dagster.cluster.transports.ssh import SshTransport
from morphseq_dagster.settings.ssh_address import SshAddress
root, count, host, port, user, key, known = sys.argv[1:]
transport = SshTransport(SshAddress(host=host, port=int(port), user=user, key=key, known_hosts=known))
client = Client(Scheduler(transport), root=JobRoot(Path(root) / "jobs"), timeouts=Timeouts())
poller = Poller(client)
needs = Resources(partition="cpu", memory="64M", time="5")
watches = []
for number in range(int(count)):
    result = Path(root) / f"result{number}"
    spec = JobSpec(group=("step", f"e{number}"), key=f"{number:032x}", command=("touch", str(result)), resources=needs)
    live = client.ensure(spec, done=result.is_file, run_id="benchmark")
    watches.append(poller.watch(live, done=result.is_file))
ends = [watch.wait(300) for watch in watches]
poller.close()
transport.close()
print(sum(end is None or end.outcome is not JobOutcome.DONE for end in ends))
"""


def measure_dagster_slurm(scratch: Path, *, shared: Path) -> list[Line]:
    """Measure each way on one job and on twenty."""
    script = shared / "slurm" / "local-slurm.sh"
    cluster = start_cluster(script, cpus="16", maxsessions="500", maxstartups="500:30:500")
    lines = []
    for count, rounds in ROUNDS.items():
        costs: dict[str, list[Cost]] = {}
        notes: dict[str, str] = {}
        for number in range(rounds):
            for name, program in (("dagster-slurm alone", _ALONE), ("our client alone", _CLIENT)):
                folder = scratch / f"{name[:3]}_{count}_{number}"
                cost, lost = _run_jobs(cluster, folder, program, count=count)
                costs.setdefault(name, []).append(cost)
                notes[name] = f", {lost} of {count} lost" if lost else ""
            cost = _run_bulk(cluster, scratch / f"bulk_{count}_{number}", count=count)
            costs.setdefault("our bulk run", []).append(cost)
        walls = {name: statistics.median(cost.wall_s for cost in found) for name, found in costs.items()}
        what = f"{count} trivial job{'s' if count > 1 else ''}"
        for name, found in costs.items():
            cpu, memory = max(cost.cpu_s for cost in found), max(cost.memory_mib for cost in found)
            note = f"{cpu:.1f} CPU-s, largest process {memory:.0f} MiB{notes.get(name, '')}"
            lines.append(Line(_NAME, f"{what}, {name}", walls[name], "s", note=note))
        alone = walls.pop("dagster-slurm alone")
        lines += [Line(_NAME, f"  {name} over dagster-slurm", wall / alone, "x", 1.0) for name, wall in walls.items()]
    return lines


def _run_jobs(cluster: LocalCluster, folder: Path, program: str, *, count: int) -> tuple[Cost, int]:
    """Cost of a program that runs that many jobs, and how many of them it lost."""
    root = _make_root(folder)
    environment = {
        "SLURM_CONF": cluster.environment["SLURM_CONF"],
        "DAGSTER_SLURM_SSH_CONTROL_DIR": str(root / "c"),
    }
    command = [sys.executable, "-c", program, str(root), str(count), *_login(cluster.address())]
    cost, said = run_program(command, environment=environment)
    _clean(cluster, sockets=root / "c")
    return cost, int(said.splitlines()[-1])


def _run_bulk(cluster: LocalCluster, folder: Path, *, count: int) -> Cost:
    """Cost of one run of the job `bulk` over that many experiments."""
    workspace, names = make_root(folder, count=count)
    command = command_of(workspace, names, settings=make_settings(cluster, "ssh"))
    return run_program(command, environment={"SLURM_CONF": cluster.environment["SLURM_CONF"]})[0]


def _clean(cluster: LocalCluster, *, sockets: Path) -> None:
    """End what dagster-slurm leaves: the shared connection, and processes on the login node."""
    for socket in sockets.glob("*"):
        subprocess.run(["ssh", "-O", "exit", "-o", f"ControlPath={socket}", "x"], capture_output=True, check=False)
    for pid in cluster.abandoned():
        os.kill(pid, signal.SIGKILL)


def _make_root(root: Path) -> Path:
    (root / "env").mkdir(parents=True)
    (root / "env" / "activate.sh").write_text("true\n")
    (root / "env" / "env").symlink_to(sys.prefix)
    (root / "payload.py").write_text("pass\n")
    return root


def _login(address: SshAddress) -> list[str]:
    return [str(v) for v in (address.host, address.port, address.user, address.key, address.known_hosts)]
