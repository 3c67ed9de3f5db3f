"""Defects of dagster-slurm 1.22.0 by itself, as docs/slurm.md lists them for its authors.

Each test holds as long as the defect does. One that fails with "cured" says that a newer version can be used with less
care: then drop what is named there, and its line in docs/slurm.md.
"""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import dagster as dg
import pytest
from dagster_slurm import BashLauncher, ComputeResource, SlurmQueueConfig, SlurmResource, SSHConnectionResource

from tests.support.slurm_bench import wait_for
from tests.support.slurm_cluster import LocalCluster, start_cluster

pytestmark = pytest.mark.slurm

PATIENCE_S = 150.0
SILENT = "import sys\nsys.exit({code})\n"
WAITING = """
import pathlib, time
from dagster_pipes import open_dagster_pipes
with open_dagster_pipes() as pipes:
    while not pathlib.Path({go!r}).exists():
        time.sleep(0.1)
    pipes.report_asset_materialization(metadata={{"part": pipes.partition_key}})
"""
# The same asset in a process of its own, for what kills it: python -c PROGRAM PAYLOAD ENV BASE HOST PORT USER KEY KNOWN
# PARTITION RETRIES.
PROGRAM = """
import sys
import dagster as dg
from dagster_slurm import *
payload, env, base, host, port, user, key, known, part, retries = sys.argv[1:]
ssh = SSHConnectionResource(host=host, port=int(port), user=user, key_path=key, known_hosts_file=known)
queue = SlurmQueueConfig(partition="cpu", cpus=1, mem="64M", time_limit="00:05:00")
compute = ComputeResource(mode="slurm", default_launcher=BashLauncher(), pre_deployed_env_path=env,
    slurm=SlurmResource(ssh=ssh, remote_base=base, queue=queue))
retry = dg.RetryPolicy(max_retries=int(retries), delay=5)
@dg.asset(partitions_def=dg.StaticPartitionsDefinition(["expA", "expB"]), retry_policy=retry)
def step(context: dg.AssetExecutionContext, compute: ComputeResource):
    return compute.run(context=context, payload_path=payload).get_results()
done = dg.materialize([step], partition_key=part, resources={"compute": compute}, instance=dg.DagsterInstance.get())
(event,) = done.get_asset_materialization_events()
print("stored as", event.partition, "made for", event.materialization.metadata["part"].value)
"""


@dataclass
class Alone:
    """dagster-slurm by itself on a cluster of this machine."""

    cluster: LocalCluster
    root: Path
    children: list[subprocess.Popen[str]] = field(default_factory=list)

    def connection(self) -> SSHConnectionResource:
        address = self.cluster.address()
        return SSHConnectionResource(
            host=address.host,
            port=address.port or 22,
            user=address.user or "",
            key_path=address.key,
            known_hosts_file=address.known_hosts,
        )

    def payload(self, text: str) -> str:
        path = self.root / "payload.py"
        path.write_text(text)
        return str(path)

    def materialize(
        self,
        payload: str,
        *,
        base: str = "base",
        options: dict[str, object] | None = None,
        retry: dg.RetryPolicy | None = None,
        **queue: object,
    ) -> dg.ExecuteInProcessResult:
        """Materialise one asset in this process."""
        values = {"partition": "cpu", "cpus": 1, "mem": "64M", "time_limit": "00:05:00"} | queue
        slurm = SlurmResource(
            ssh=self.connection(), remote_base=str(self.root / base), queue=SlurmQueueConfig(**values)
        )
        compute = ComputeResource(
            mode="slurm",
            default_launcher=BashLauncher(),
            pre_deployed_env_path=str(self.root / "env"),
            slurm=slurm,
        )

        @dg.asset(retry_policy=retry)
        def step(context: dg.AssetExecutionContext, compute: ComputeResource):  # noqa: ANN202
            return compute.run(context=context, payload_path=payload, **(options or {})).get_results()

        return dg.materialize([step], resources={"compute": compute}, raise_on_error=False)

    def start(self, payload: str, *, partition: str, retries: int = 0) -> subprocess.Popen[str]:
        """Begin to materialise one partition in a process of its own."""
        address = self.cluster.address()
        home = self.root / "dagster_home"
        home.mkdir(exist_ok=True)
        where = (address.host, str(address.port), address.user, address.key, address.known_hosts)
        child = subprocess.Popen(
            [
                sys.executable,
                "-c",
                PROGRAM,
                payload,
                f"{self.root}/env",
                f"{self.root}/base",
                *where,
                partition,
                str(retries),
            ],
            env={**os.environ, "DAGSTER_HOME": str(home)},
            stdout=subprocess.PIPE,
            stderr=(self.root / f"{partition}.log").open("w"),
            text=True,
        )
        self.children.append(child)
        return child

    def log(self, partition: str) -> str:
        return (self.root / f"{partition}.log").read_text()

    def jobs(self, *states: str) -> list[str]:
        """Numbers of the jobs that were made here."""
        out = self.cluster.ask("squeue", "-h", "-t", ",".join(states) or "all", "-o", "%i %Z")
        return [line.split(" ")[0] for line in out.splitlines() if line.split(" ")[1].startswith(str(self.root))]

    def clean(self) -> None:
        """Leave nothing: children, connections, processes and jobs."""
        for child in self.children:
            child.kill()
            child.wait()
        for socket in Path(os.environ["DAGSTER_SLURM_SSH_CONTROL_DIR"]).iterdir():
            subprocess.run(["ssh", "-O", "exit", "-o", f"ControlPath={socket}", "x"], capture_output=True, check=False)
        for pid in self.cluster.abandoned():
            os.kill(pid, signal.SIGKILL)
        if left := self.jobs("PENDING", "RUNNING"):
            self.cluster.ask("scancel", *left)


@pytest.fixture
def make_alone(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[LocalCluster], Alone]]:
    control = Path(f"/tmp/mseq-ds-{os.getpid()}")  # a socket's path may have about 100 characters
    control.mkdir(exist_ok=True)
    monkeypatch.setenv("DAGSTER_SLURM_SSH_CONTROL_DIR", str(control))
    (tmp_path / "env").mkdir()
    (tmp_path / "env" / "activate.sh").write_text("true\n")
    (tmp_path / "env" / "env").symlink_to(sys.prefix)
    made: list[Alone] = []

    def make(cluster: LocalCluster) -> Alone:
        made.append(Alone(cluster, tmp_path))
        return made[-1]

    yield make
    for alone in made:
        alone.clean()
    for path in control.iterdir():
        path.unlink()
    control.rmdir()


@pytest.fixture
def alone(make_alone: Callable[[LocalCluster], Alone], cluster: LocalCluster) -> Alone:
    return make_alone(cluster)


def cured(what: str) -> str:
    return f"cured: {what}; drop the workaround and the line in docs/slurm.md"


def test_silence_is_success_and_sessions_stay(alone: Alone) -> None:
    done = alone.materialize(alone.payload(SILENT.format(code=0)))
    assert done.success, cured("a payload that exits 0 without any message is no success any more")
    (event,) = done.get_asset_materialization_events()
    assert "dagster/data_version" in (event.materialization.tags or {}), cured("no data version is invented")
    assert len(alone.cluster.abandoned()) == 2, cured("no processes stay on the login node after a job")
    assert len(list(Path(os.environ["DAGSTER_SLURM_SSH_CONTROL_DIR"]).iterdir())) == 1, cured(
        "the connection ends with its process"
    )


def test_values_are_read_by_a_shell(alone: Alone) -> None:
    touched = alone.root / "touched"
    alone.materialize(alone.payload(SILENT.format(code=0)), qos=f"normal; touch {touched}; true")
    assert touched.exists(), cured("values of the queue are no longer read by a shell on the login node")


def test_waiting_in_the_queue_counts_as_running_and_ends_in_a_cancel(alone: Alone) -> None:
    done = alone.materialize(alone.payload(SILENT.format(code=0)), cpus=64, options={"poll_timeout": 1})
    assert not done.success, cured("poll_timeout does not count the time in the queue")
    (failure,) = done.get_step_failure_events()
    assert "Timed out after 1s" in str(failure.event_specific_data), cured("poll_timeout")


def test_only_the_main_thread_can_wait_for_a_job(alone: Alone) -> None:
    ends: list[dg.ExecuteInProcessResult] = []
    payload = alone.payload(SILENT.format(code=0))
    thread = threading.Thread(target=lambda: ends.append(alone.materialize(payload)))
    thread.start()
    thread.join(PATIENCE_S)
    (failure,) = ends[0].get_step_failure_events() or [None]
    assert failure is not None, cured("one process can wait for many jobs in threads")
    assert "main thread" in str(failure.event_specific_data), cured("signal handlers")


def test_mode_local_needs_pixi(alone: Alone, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PIXI_ENVIRONMENT_NAME", raising=False)

    @dg.asset
    def step(context: dg.AssetExecutionContext, compute: ComputeResource):  # noqa: ANN202
        return compute.run(context=context, payload_path=alone.payload("")).get_results()

    with pytest.raises(Exception, match=r"(?i)pixi"):
        dg.materialize([step], resources={"compute": ComputeResource(mode="local", default_launcher=BashLauncher())})


@pytest.mark.slow
def test_signal_to_stop_is_ignored(alone: Alone) -> None:
    go = alone.root / "go"
    child = alone.start(alone.payload(WAITING.format(go=str(go))), partition="expA")
    wait_for(lambda: bool(alone.jobs("RUNNING")), timeout_s=PATIENCE_S)
    child.send_signal(signal.SIGTERM)
    wait_for(lambda: "Signal 15 received" in alone.log("expA") or child.poll() is not None, timeout_s=PATIENCE_S)
    wait_for(lambda: "continuing to monitor" in alone.log("expA") or child.poll() is not None, timeout_s=PATIENCE_S)
    assert child.poll() is None, cured("SIGTERM ends the wait")
    assert alone.jobs("RUNNING"), cured("SIGTERM cancels the job")
    go.touch()
    out, _ = child.communicate(timeout=PATIENCE_S)
    assert "stored as expA made for expA" in out


@pytest.mark.slow
def test_job_of_another_partition_is_adopted(alone: Alone, monkeypatch: pytest.MonkeyPatch) -> None:
    go = alone.root / "go"
    payload = alone.payload(WAITING.format(go=str(go)))
    first = alone.start(payload, partition="expA")
    wait_for(lambda: bool(alone.jobs("RUNNING")), timeout_s=PATIENCE_S)
    (job,) = alone.jobs("RUNNING")
    monkeypatch.setenv("DAGSTER_HOME", str(alone.root / "dagster_home"))
    with dg.DagsterInstance.get() as instance:
        wait_for(lambda: job in instance.get_runs()[0].tags.values(), timeout_s=PATIENCE_S)
        first.kill()
        first.communicate()
        instance.report_run_failed(instance.get_runs()[0])
    second = alone.start(payload, partition="expB")
    wait_for(lambda: "Reattaching" in alone.log("expB") or len(alone.jobs()) > 1, timeout_s=PATIENCE_S)
    go.touch()
    out, _ = second.communicate(timeout=PATIENCE_S)
    assert len(alone.jobs()) == 1, cured("a job is taken over for its own partition only")
    assert "stored as expB made for expA" in out, cured("a job is taken over for its own partition only")


@pytest.mark.slow
def test_failure_without_accounting_is_success(
    make_alone: Callable[[LocalCluster], Alone], shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = shared / "slurm" / "local-slurm.sh"
    cluster = start_cluster(script, accounting="0", minjobage="5", killwait="2")
    monkeypatch.setenv("SLURM_CONF", cluster.environment["SLURM_CONF"])
    alone = make_alone(cluster)
    done = alone.materialize(alone.payload(SILENT.format(code=3)))
    assert done.success, cured("a failed job is a failure without accounting too")


@pytest.mark.slow
def test_retry_after_an_outage_submits_a_second_job(alone: Alone) -> None:
    go = alone.root / "go"
    child = alone.start(alone.payload(WAITING.format(go=str(go))), partition="expA", retries=1)
    wait_for(lambda: bool(alone.jobs("RUNNING")), timeout_s=PATIENCE_S)
    alone.cluster.stop("sshd")
    try:
        wait_for(lambda: "STEP_UP_FOR_RETRY" in alone.log("expA") or child.poll() is not None, timeout_s=PATIENCE_S)
    finally:
        alone.cluster.start("sshd")
    assert child.poll() is None, cured("lost contact does not end a step")
    wait_for(lambda: len(alone.jobs()) > 1 or "Reattaching" in alone.log("expA"), timeout_s=PATIENCE_S)
    assert len(alone.jobs("RUNNING", "PENDING")) == 2, cured("a retry takes the running job over")
