"""Transports behave alike: answers, limits, files, text that a shell could misread."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from morphseq_dagster.errors import PermanentError
from morphseq_dagster.slurm.errors import UnreachableError
from morphseq_dagster.slurm.local import LocalTransport
from morphseq_dagster.slurm.outcome import Outcome
from morphseq_dagster.slurm.ssh import SshTransport
from morphseq_dagster.slurm.transport import Transport
from morphseq_dagster.testing.slurm_bench import Bench
from morphseq_dagster.testing.slurm_cluster import LocalCluster

pytestmark = pytest.mark.slurm
HOSTILE = ("a b", "$(id)", "`id`", "x;y", "'", '"', "a\nb", "*", "~", "-n", "\\", "ä")


@pytest.fixture(params=["local", "ssh"])
def transport(request: pytest.FixtureRequest, cluster: LocalCluster) -> Iterator[Transport]:
    found = LocalTransport() if request.param == "local" else cluster.ssh()
    yield found
    found.close()


def test_answer_has_code_output_and_errors(transport: Transport) -> None:
    answer = transport.run(["sh", "-c", "echo out; echo err >&2; exit 3"], timeout_s=20)
    assert (answer.code, answer.out, answer.err) == (3, "out\n", "err\n")


def test_arguments_arrive_as_they_are(transport: Transport) -> None:
    answer = transport.run(["printf", "%s\\0", *HOSTILE], timeout_s=20)
    assert answer.out.split("\0")[:-1] == list(HOSTILE)


def test_hanging_command_is_no_answer_and_the_next_one_works(transport: Transport) -> None:
    began = time.monotonic()
    with pytest.raises(UnreachableError):
        transport.run(["sleep", "60"], timeout_s=0.5)
    assert time.monotonic() - began < 20
    assert transport.run(["echo", "on"], timeout_s=20).out == "on\n"


def test_missing_command_is_no_outage(transport: Transport) -> None:
    with pytest.raises(PermanentError, match="no-such-command"):
        transport.run(["no-such-command"], timeout_s=20)


def test_file_goes_there_and_comes_back(transport: Transport, tmp_path: Path) -> None:
    data = bytes(range(256)) * 300
    path = str(tmp_path / "a b.bin")
    transport.put(path, data)
    assert transport.get(path) == data
    assert [p.name for p in tmp_path.iterdir()] == ["a b.bin"]
    with pytest.raises(FileNotFoundError):
        transport.get(str(tmp_path / "absent"))


def test_job_runs_over_either(transport: Transport, bench: Bench) -> None:
    over = bench.with_transport(transport)
    assert over.run(over.spec("good", "sleep 0.3")).outcome is Outcome.DONE
    assert over.run(over.spec("bad", "exit 3")).outcome is Outcome.FAILED
    assert (bench.executions("good"), bench.executions("bad")) == (1, 1)


def test_many_commands_at_once_share_one_login(cluster: LocalCluster) -> None:
    transport = cluster.ssh()
    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda n: transport.run(["echo", str(n)], timeout_s=60).out, range(40)))
    assert answers == [f"{n}\n" for n in range(40)]
    assert transport.logins == 1
    transport.close()


def test_nothing_is_left_when_the_client_is_gone(cluster: LocalCluster) -> None:
    transport = cluster.ssh()
    pid = int(transport.run(["sh", "-c", "echo $PPID"], timeout_s=20).out)
    transport.close()
    deadline = time.monotonic() + 20
    while Path(f"/proc/{pid}").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_unknown_host_key_is_refused(cluster: LocalCluster, tmp_path: Path) -> None:
    (tmp_path / "known").write_text("")
    transport = SshTransport(replace(cluster.address(), known_hosts=str(tmp_path / "known")))
    with pytest.raises(PermanentError, match="Host key verification failed"):
        transport.run(["true"], timeout_s=20)
    transport.close()


def test_wrong_key_is_refused_and_not_waited_for(cluster: LocalCluster, tmp_path: Path) -> None:
    key = tmp_path / "id"
    os.system(f"ssh-keygen -q -t ed25519 -N '' -f {key}")
    transport = SshTransport(replace(cluster.address(), key=str(key)))
    with pytest.raises(PermanentError, match=r"(?i)permission denied"):
        transport.run(["true"], timeout_s=20)
    transport.close()


def test_login_node_that_is_not_there_is_no_answer() -> None:
    from morphseq_dagster.slurm.ssh import SshAddress

    transport = SshTransport(SshAddress(host="127.0.0.1", port=1))
    with pytest.raises(UnreachableError):
        transport.run(["true"], timeout_s=20)
    transport.close()
