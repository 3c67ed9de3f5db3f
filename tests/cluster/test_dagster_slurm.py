"""dagster-slurm's objects as the way to a cluster: what they say holds, what they would loosen does not."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from dagster_slurm import SlurmQueueConfig, SSHConnectionResource

from morphseq_dagster.cluster.connection import default_resources, make_transport
from morphseq_dagster.errors import PermanentError
from morphseq_dagster.resources.dagster_slurm import DagsterSlurmTransport, connection_of, load_resource, resources_of
from morphseq_dagster.settings.job_values import Resources
from morphseq_dagster.settings.slurm import SlurmSettings
from morphseq_dagster.settings.ssh_address import SshAddress
from tests.support.slurm_cluster import LocalCluster

pytestmark = pytest.mark.slurm

LAB = """
import dagster as dg
from dagster_slurm import SlurmQueueConfig, SlurmResource, SSHConnectionResource

number = 7
slurm = SlurmResource(
    ssh=SSHConnectionResource(
        host=dg.EnvVar("LAB_HOST"), port={port}, user="{user}", key_path="{key}", known_hosts_file="{known_hosts}"
    ),
    queue=SlurmQueueConfig(partition="cpu", cpus=3, mem="512M", time_limit="00:07:00"),
)
"""


@pytest.fixture
def lab(cluster: LocalCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A module of somebody's own project, with a cluster object in it."""
    (tmp_path / "lab_cluster.py").write_text(LAB.format(**dataclasses.asdict(cluster.address())))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("LAB_HOST", cluster.address().host)
    yield "lab_cluster:slurm"
    sys.modules.pop("lab_cluster", None)


def connection(cluster: LocalCluster, **changes: object) -> SSHConnectionResource:
    address = cluster.address()
    values = {"key_path": address.key, "known_hosts_file": address.known_hosts, "user": address.user}
    return SSHConnectionResource(**{"host": address.host, "port": address.port, **values, **changes})


def test_queue_gives_resources() -> None:
    queue = SlurmQueueConfig(
        partition="gpu", time_limit="02:00:00", cpus=8, mem="16G", gpus_per_node=2, qos="high", account="lab"
    )
    assert resources_of(queue) == Resources(
        partition="gpu", time="02:00:00", cpus=8, memory="16G", gpus="2", qos="high", account="lab"
    )
    assert resources_of(SlurmQueueConfig(mem="300")).memory == "300M"
    assert resources_of(SlurmQueueConfig(mem=None)).as_dict() == {"cpus": 2, "time": "00:30:00"}


@pytest.mark.parametrize(
    ("queue", "named"),
    [
        (SlurmQueueConfig(qos="x; touch /tmp/injected; true"), "qos"),
        (SlurmQueueConfig(partition="cpu --wrap=id"), "partition"),
        (SlurmQueueConfig(account="$(id)"), "account"),
        (SlurmQueueConfig(num_nodes=2), "num_nodes"),
        (SlurmQueueConfig(mem=None, mem_per_cpu="2G"), "mem_per_cpu"),
        (SlurmQueueConfig(reservation="friday"), "reservation"),
        (SlurmQueueConfig(signal_before_timeout="TERM@60"), "signal_before_timeout"),
    ],
)
def test_queue_values_are_refused_and_never_dropped(queue: SlurmQueueConfig, named: str) -> None:
    with pytest.raises(PermanentError) as caught:
        resources_of(queue)
    assert named in caught.value.found


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"key_path": None, "password": "x"}, "password"),
        ({"host_key_checking": "off"}, "host_key_checking"),
        ({"host_key_checking": "accept-new"}, "host_key_checking"),
        ({"host_key_checking": "inherit"}, "host_key_checking"),
        ({"force_tty": True}, "force_tty"),
        ({"post_login_command": "id"}, "post_login_command"),
        ({"host": "-oProxyCommand=id"}, "host"),
        ({"user": "-x"}, "user"),
        ({"jump_host": SSHConnectionResource(host="gate", user="me", host_key_checking="off")}, "jump host"),
        ({"jump_host": SSHConnectionResource(host="gate", user="me;id")}, "user"),
    ],
)
def test_connection_that_loosens_or_breaks_is_refused(
    cluster: LocalCluster, changes: dict[str, object], named: str
) -> None:
    with pytest.raises(PermanentError) as caught:
        DagsterSlurmTransport(connection(cluster, **changes))
    assert named in caught.value.found


def test_own_options_of_a_connection_cannot_let_unknown_host_keys_pass(cluster: LocalCluster, tmp_path: Path) -> None:
    (tmp_path / "known").write_text("")
    loose = ["-o", "StrictHostKeyChecking=no", "-o", "ControlMaster=auto", "-o", f"ControlPath={tmp_path}/cm"]
    transport = DagsterSlurmTransport(connection(cluster, extra_opts=loose, known_hosts_file=str(tmp_path / "known")))
    with pytest.raises(PermanentError, match="Host key verification failed"):
        transport.run(["true"], timeout_s=120)
    transport.close()
    assert [path.name for path in tmp_path.iterdir()] == ["known"]


def test_missing_key_file_is_told_before_any_login() -> None:
    with pytest.raises(PermanentError, match="/no/such/key"):
        connection_of(SshAddress(host="login", user="me", key="/no/such/key"))
    with pytest.raises(PermanentError, match="user"):
        connection_of(SshAddress(host="login"))
    with pytest.raises(PermanentError, match="jump"):
        connection_of(SshAddress(host="login", user="me", jump="gate"))


def test_cluster_object_of_ones_own_project(cluster: LocalCluster, lab: str) -> None:
    settings = SlurmSettings.model_validate(
        {"transport": "dagster_slurm", "resource": lab, "steps": {"letters": {"memory": "1G"}}}
    )
    transport = make_transport(settings)
    assert transport.run(["sinfo", "-h", "-o", "%P"], timeout_s=120).out.split() == ["cpu*", "gpu"]
    transport.close()
    base = default_resources(settings)
    assert base == Resources(partition="cpu", cpus=3, memory="512M", time="00:07:00")
    found = settings.resources_of("letters", experiment="20240418", base=base)
    assert found == dataclasses.replace(base, memory="1G")


@pytest.mark.parametrize("name", ["lab_cluster:other", "lab_cluster:number", "no_such_module:slurm"])
def test_name_of_no_cluster_object_is_told(lab: str, name: str) -> None:
    del lab
    with pytest.raises(PermanentError, match=name):
        load_resource(name)


def test_dagster_is_imported_only_where_this_transport_is_chosen() -> None:
    code = """
import sys
from morphseq_dagster.cli import main
from morphseq_dagster.engine.executors import runner
from morphseq_dagster.cluster import executor as slurm
from morphseq_dagster.cluster.connection import make_transport
from morphseq_dagster.settings.slurm import SlurmSettings
node = {"host": "h", "user": "me"}
for choice in ({}, {"transport": "ssh", "ssh": node}, {"transport": "dagster_slurm", "ssh": node}):
    name = make_transport(SlurmSettings.model_validate(choice)).name
    print(name, sorted({"dagster", "dagster_slurm"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["local []", "ssh []", "dagster_slurm ['dagster', 'dagster_slurm']"]


def test_missing_package_is_told_with_the_remedy() -> None:
    code = """
import sys
sys.modules["dagster_slurm"] = None
from morphseq_dagster.errors import PermanentError
from morphseq_dagster.cluster.connection import make_transport
from morphseq_dagster.settings.slurm import SlurmSettings
try:
    make_transport(SlurmSettings.model_validate({"transport": "dagster_slurm", "ssh": {"host": "h", "user": "me"}}))
except PermanentError as error:
    print(error.remedy)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "morphseq-dagster[slurm]" in done.stdout
