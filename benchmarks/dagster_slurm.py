"""dagster-slurm by itself and our client: the same trivial jobs over the same login node of a cluster of this machine.

Both start from nothing, a Python without imports, and end when all jobs are known to have ended. The SSH server takes
any number of sessions: at its defaults dagster-slurm loses some of twenty jobs.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from benchmarks.measure import Line, run_child
from morphseq_dagster.slurm.ssh import SshAddress
from morphseq_dagster.testing.slurm_cluster import LocalCluster, start_cluster

COUNTS = (1, 20)

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
@dg.asset(name="step" + number)
def step(context: dg.AssetExecutionContext, compute: ComputeResource):
    return compute.run(context=context, payload_path=root + "/payload.py").get_results()
dg.materialize([step], resources={"compute": compute})
'''
runs = [subprocess.Popen([sys.executable, "-c", program, root, str(n), *login]) for n in range(int(count))]
sys.exit(sum(run.wait() != 0 for run in runs))
"""

_OURS = """
import sys
from pathlib import Path
from morphseq_dagster.slurm.client import Client, Patience
from morphseq_dagster.slurm.commands import Scheduler
from morphseq_dagster.slurm.folder import JobRoot
from morphseq_dagster.slurm.job import JobSpec, Resources
from morphseq_dagster.slurm.outcome import Outcome
from morphseq_dagster.slurm.poller import Poller
from morphseq_dagster.slurm.ssh import SshAddress, SshTransport
root, count, host, port, user, key, known = sys.argv[1:]
transport = SshTransport(SshAddress(host=host, port=int(port), user=user, key=key, known_hosts=known))
client = Client(Scheduler(transport), root=JobRoot(Path(root) / "jobs"), patience=Patience())
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
sys.exit(sum(end is None or end.outcome is not Outcome.DONE for end in ends))
"""


def measure_dagster_slurm(scratch: Path, *, shared: Path) -> list[Line]:
    """Measure both on one job and on twenty."""
    script = shared / "slurm" / "local-slurm.sh"
    cluster = start_cluster(script, cpus="16", maxsessions="500", maxstartups="500:30:500")
    lines = []
    for count in COUNTS:
        walls = {}
        for name, program in (("dagster-slurm alone", _ALONE), ("our client", _OURS)):
            root = _make_root(scratch / f"alone_{count}_{len(walls)}")
            environment = {
                "SLURM_CONF": cluster.environment["SLURM_CONF"],
                "DAGSTER_SLURM_SSH_CONTROL_DIR": str(root / "c"),
            }
            arguments = ["-c", program, str(root), str(count), *_login(cluster.address())]
            cost = run_child(arguments, environment=environment)
            walls[name] = cost.wall_s
            _clean(cluster, sockets=root / "c")
            note = f"{cost.cpu_s:.1f} CPU-s, largest process {cost.memory_mib:.0f} MiB"
            lines.append(Line("dagster_slurm", f"{count} trivial jobs, {name}", cost.wall_s, "s", note=note))
        ratio = walls["our client"] / walls["dagster-slurm alone"]
        lines.append(Line("dagster_slurm", f"{count} trivial jobs, our client over dagster-slurm", ratio, "x", 1.0))
    return lines


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
