"""Transports behave alike: answers, limits, files, text that a shell could misread."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from morphseq_dagster.cluster.connection import make_transport
from morphseq_dagster.cluster.errors import UnreachableError
from morphseq_dagster.cluster.outcome import JobOutcome
from morphseq_dagster.cluster.poller import Poller
from morphseq_dagster.cluster.transports.protocol import Transport
from morphseq_dagster.cluster.transports.ssh import SshTransport
from morphseq_dagster.errors import PermanentError
from tests.support.slurm_bench import Bench, wait_for
from tests.support.slurm_cluster import LocalCluster

pytestmark = pytest.mark.slurm
HOSTILE = ("a b", "$(id)", "`id`", "x;y", "'", '"', "a\nb", "*", "~", "-n", "\\", "ä")


@pytest.fixture(params=["local", "ssh", "dagster_slurm"])
def transport(request: pytest.FixtureRequest, cluster: LocalCluster) -> Iterator[Transport]:
    found = make_transport(cluster.settings(request.param))
    assert found.name == request.param
    yield found
    found.close()


@pytest.fixture(params=["ssh", "dagster_slurm"])
def make_remote(request: pytest.FixtureRequest, cluster: LocalCluster) -> Iterator[Callable[..., SshTransport]]:
    """Make a transport over the network, with another address where one is given."""
    made: list[SshTransport] = []

    def make(**changes: object) -> SshTransport:
        address = {**dataclasses.asdict(cluster.address()), **changes}
        transport = make_transport(cluster.settings(request.param, ssh=address))
        assert isinstance(transport, SshTransport)
        made.append(transport)
        return transport

    yield make
    for transport in made:
        transport.close()


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


def test_names_of_files_are_never_read_by_a_shell(transport: Transport, tmp_path: Path) -> None:
    paths = [tmp_path / "".join(HOSTILE), tmp_path / "-n"]
    for path in paths:
        transport.put(str(path), str(path).encode())
    assert [transport.get(str(path)) for path in paths] == [str(path).encode() for path in paths]
    assert sorted(tmp_path.iterdir()) == sorted(paths)


def test_bytes_that_are_no_text_stay_visible(transport: Transport) -> None:
    answer = transport.run(["printf", r"a\377b\n"], timeout_s=20)
    assert (answer.code, answer.out) == (0, "a\\xffb\n")


def test_command_is_run_once_and_its_failure_decides_nothing(transport: Transport, tmp_path: Path) -> None:
    count = ["sh", "-c", f"echo x >> {tmp_path}/ran; exit 4"]
    assert transport.run(count, timeout_s=20).code == 4
    with pytest.raises(UnreachableError):
        transport.run(["sh", "-c", f"echo x >> {tmp_path}/ran; exec sleep 60"], timeout_s=2)
    assert transport.run(["true"], timeout_s=20).code == 0
    assert (tmp_path / "ran").read_text() == "x\nx\n"


def test_job_runs_over_each(transport: Transport, cluster: LocalCluster, tmp_path: Path) -> None:
    bench = Bench(cluster, tmp_path, cluster.client(tmp_path / "jobs", transport=transport))
    assert bench.run(bench.spec("good", "sleep 0.3")).outcome is JobOutcome.DONE
    assert bench.run(bench.spec("bad", "exit 3")).outcome is JobOutcome.FAILED
    assert (bench.executions("good"), bench.executions("bad")) == (1, 1)
    assert bench.client.scheduler.calls["sbatch"] == 2


def test_job_is_cancelled_over_each(transport: Transport, cluster: LocalCluster, tmp_path: Path) -> None:
    bench = Bench(cluster, tmp_path, cluster.client(tmp_path / "jobs", transport=transport))
    live = bench.ensure(bench.spec("long", "sleep 100"))
    bench.until_running(live)
    bench.client.cancel([live.attempt])
    bench.client.await_cancelled([live.attempt])
    assert (live.attempt.record("closed") or {})["kind"] == "cancelled"
    assert live.job not in bench.queued()


def test_lost_contact_is_waiting_and_no_second_submission(
    make_remote: Callable[..., SshTransport], cluster: LocalCluster, tmp_path: Path
) -> None:
    transport = make_remote()
    bench = Bench(cluster, tmp_path, cluster.client(tmp_path / "jobs", transport=transport))
    live = bench.ensure(bench.spec("bad", f"while [ ! -e {tmp_path}/go ]; do sleep 0.1; done; exit 3"))
    bench.until_running(live)
    poller = Poller(bench.client)
    watch = poller.watch(live, done=bench.done("bad"))
    cluster.stop("sshd")
    try:
        wait_for(lambda: watch.status.trouble != "")
        with pytest.raises(UnreachableError):
            bench.ensure(bench.spec("new"))
        (tmp_path / "go").touch()
        wait_for(lambda: live.attempt.record("end") is not None)
        assert watch.verdict is None, "no answer proves nothing"
    finally:
        cluster.start("sshd")
    verdict = watch.wait(60)
    poller.close()
    assert verdict is not None
    assert verdict.outcome is JobOutcome.FAILED
    assert bench.run(bench.spec("new")).outcome is JobOutcome.DONE
    assert (bench.executions("bad"), bench.executions("new")) == (1, 1)
    tokens = [
        a.token for name in ("bad", "new") for a in bench.client.root.attempts(("step", name), key=bench.spec(name).key)
    ]
    assert [bench.rows_of(token) for token in tokens if bench.rows_of(token) > 1] == []


def test_many_commands_at_once_share_one_login(make_remote: Callable[..., SshTransport]) -> None:
    transport = make_remote()
    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda n: transport.run(["echo", str(n)], timeout_s=60).out, range(40)))
    assert answers == [f"{n}\n" for n in range(40)]
    assert transport.logins == 1


def test_nothing_is_left_when_the_client_is_gone(make_remote: Callable[..., SshTransport]) -> None:
    transport = make_remote()
    pid = int(transport.run(["sh", "-c", "echo $PPID"], timeout_s=20).out)
    transport.close()
    wait_for(lambda: not Path(f"/proc/{pid}").exists(), timeout_s=20)


def test_unknown_host_key_is_refused(make_remote: Callable[..., SshTransport], tmp_path: Path) -> None:
    (tmp_path / "known").write_text("")
    with pytest.raises(PermanentError, match="Host key verification failed"):
        make_remote(known_hosts=str(tmp_path / "known")).run(["true"], timeout_s=20)


def test_wrong_key_is_refused_and_not_waited_for(make_remote: Callable[..., SshTransport], tmp_path: Path) -> None:
    key = tmp_path / "id"
    os.system(f"ssh-keygen -q -t ed25519 -N '' -f {key}")
    with pytest.raises(PermanentError, match=r"(?i)permission denied"):
        make_remote(key=str(key)).run(["true"], timeout_s=20)


def test_login_node_that_is_not_there_is_no_answer(make_remote: Callable[..., SshTransport]) -> None:
    with pytest.raises(UnreachableError):
        make_remote(port=1).run(["true"], timeout_s=20)
