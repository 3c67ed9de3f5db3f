"""A jump host on the way to the cluster, with each transport that logs in."""

from __future__ import annotations

import dataclasses
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from morphseq_dagster.cluster.connection import make_transport
from morphseq_dagster.cluster.transports.ssh import SshTransport
from morphseq_dagster.errors import PermanentError
from morphseq_dagster.settings.ssh_address import SshAddress
from tests.support.slurm_bench import wait_for
from tests.support.slurm_cluster import LocalCluster

pytestmark = pytest.mark.slurm
TRANSPORTS = pytest.mark.parametrize("transport", ["ssh", "dagster_slurm"])


@pytest.fixture
def gate(cluster: LocalCluster, tmp_path: Path) -> Iterator[SshAddress]:
    """A jump host before the cluster's login node: an SSH server that forwards, with the same keys."""
    home = Path(cluster.variables["LOCAL_SLURM_HOME"])
    login, port = cluster.address(), free_port()
    (tmp_path / "gate").mkdir()
    lines = [
        line
        for line in (home / "etc" / "sshd_config").read_text().splitlines()
        if not line.startswith(("ListenAddress", "PidFile", "AllowTcpForwarding"))
    ]
    lines += [f"ListenAddress 127.0.0.1:{port}", f"PidFile {tmp_path}/gate/pid", "AllowTcpForwarding yes"]
    (tmp_path / "gate" / "config").write_text("\n".join(lines) + "\n")
    known = Path(str(login.known_hosts)).read_text()
    (tmp_path / "gate" / "known").write_text(known + known.replace(f":{login.port} ", f":{port} "))
    program = shutil.which("sshd", path="/usr/sbin:/usr/local/sbin:/usr/bin")
    assert program is not None
    server = subprocess.Popen([program, "-D", "-e", "-f", str(tmp_path / "gate" / "config")], stderr=subprocess.DEVNULL)
    wait_for(lambda: is_listening(port))
    yield dataclasses.replace(
        login, jump=f"{login.user}@{login.host}:{port}", known_hosts=str(tmp_path / "gate" / "known")
    )
    server.terminate()
    server.wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def is_listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def ways_through(gate: SshAddress) -> list[str]:
    """Processes that hold a connection open through the jump host."""
    assert gate.jump is not None
    user_and_host, _, port = gate.jump.rpartition(":")
    pattern = rf"^ssh -o ControlMaster=no .*-p {port} .*-W .*{user_and_host}"
    found = subprocess.run(["pgrep", "-f", pattern], capture_output=True, text=True, check=False)
    return found.stdout.split()


@TRANSPORTS
def test_way_through_a_jump_host_is_one_login_and_leaves_nothing(
    cluster: LocalCluster, gate: SshAddress, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, transport: str
) -> None:
    (tmp_path / "control").mkdir()
    monkeypatch.setenv("DAGSTER_SLURM_SSH_CONTROL_DIR", str(tmp_path / "control"))
    way = make_transport(cluster.settings(transport, ssh=dataclasses.asdict(gate)))
    assert isinstance(way, SshTransport)
    server = int(way.run(["sh", "-c", "echo $PPID"], timeout_s=120).out)
    assert len(ways_through(gate)) == 1
    assert way.run(["echo", "a b"], timeout_s=120).out == "a b\n"
    way.put(str(tmp_path / "x"), b"\0\xff")
    assert way.get(str(tmp_path / "x")) == b"\0\xff"
    assert way.logins == 1
    way.close()
    wait_for(lambda: not Path(f"/proc/{server}").exists() and not ways_through(gate))
    assert list((tmp_path / "control").iterdir()) == []


@TRANSPORTS
def test_unknown_host_key_of_a_jump_host_is_refused(cluster: LocalCluster, gate: SshAddress, transport: str) -> None:
    known = cluster.address().known_hosts
    way = make_transport(cluster.settings(transport, ssh={**dataclasses.asdict(gate), "known_hosts": known}))
    with pytest.raises(PermanentError, match="Host key verification failed"):
        way.run(["true"], timeout_s=120)
    way.close()


@TRANSPORTS
def test_key_that_the_jump_host_does_not_know_is_refused(
    cluster: LocalCluster, gate: SshAddress, tmp_path: Path, transport: str
) -> None:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / "other")], check=True)
    settings = cluster.settings(transport, ssh={**dataclasses.asdict(gate), "key": str(tmp_path / "other")})
    way = make_transport(settings)
    with pytest.raises(PermanentError, match="Permission denied"):
        way.run(["true"], timeout_s=120)
    way.close()
