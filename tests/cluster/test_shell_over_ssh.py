"""Lasting shells on a login node: shared, replaced when they die, and none left behind."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from morphseq_dagster.cluster.connection import make_transport
from morphseq_dagster.cluster.errors import UnreachableError
from morphseq_dagster.cluster.transports.ssh import SshTransport
from morphseq_dagster.errors import PermanentError
from tests.support.slurm_bench import children, wait_for
from tests.support.slurm_cluster import LocalCluster

LOOP = "while IFS= read -r line"


@pytest.fixture(params=["ssh", "dagster_slurm"])
def transport(request: pytest.FixtureRequest, cluster: LocalCluster) -> Iterator[SshTransport]:
    found = make_transport(cluster.settings(request.param))
    assert isinstance(found, SshTransport)
    yield found
    found.close()


def parent(transport: SshTransport) -> int:
    """The lasting shell that a command runs in."""
    return int(transport.run(["sh", "-c", "echo $PPID"], timeout_s=30).out)


def is_loop(pid: int) -> bool:
    try:
        return LOOP.encode() in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


@pytest.mark.slurm
def test_two_commands_share_one_remote_session(transport: SshTransport) -> None:
    first = parent(transport)
    assert is_loop(first)
    assert parent(transport) == first
    assert transport.logins == 1


@pytest.mark.slurm
def test_answers_are_exact_and_signals_are_codes_over_the_network(transport: SshTransport) -> None:
    answer = transport.run(["sh", "-c", r"printf 'a\0\377'; printf 'b\377' >&2"], timeout_s=30)
    assert (answer.code, answer.out, answer.err) == (0, "a\0\\xff", "b\\xff")
    big = transport.run(["sh", "-c", "head -c 1000000 /dev/zero & head -c 1000000 /dev/zero >&2; wait"], timeout_s=60)
    assert (big.code, big.out, big.err) == (0, "\0" * 1_000_000, "\0" * 1_000_000)
    assert transport.run(["sh", "-c", "kill -15 $$"], timeout_s=30).code == 143


@pytest.mark.slurm
@pytest.mark.parametrize("end", [False, True])
def test_shell_that_died_between_commands_is_replaced_without_a_login(transport: SshTransport, end: bool) -> None:
    before, loop = children(), parent(transport)
    if end:
        # Its way is gone, on this side.
        (client,) = (pid for pid in children() - before if LOOP in command(pid))
        os.kill(client, signal.SIGKILL)
    else:
        os.kill(loop, signal.SIGKILL)
    wait_for(lambda: not is_loop(loop))
    (shell,) = transport._idle
    wait_for(lambda: not shell.is_ready())
    assert parent(transport) != loop
    assert transport.logins == 1


def command(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()


@pytest.mark.slurm
def test_command_whose_shell_dies_is_no_answer_and_is_not_repeated(transport: SshTransport, tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    with pytest.raises(UnreachableError):
        transport.run(["sh", "-c", f"echo x >> {ran}; kill -9 $PPID"], timeout_s=30)
    assert transport.run(["cat", str(ran)], timeout_s=30).out == "x\n"
    assert ran.read_text() == "x\n"
    assert transport.logins == 1


@pytest.mark.slurm
def test_time_out_ends_shell_and_connection_and_the_next_command_works(transport: SshTransport) -> None:
    before = children()
    loop, begun = parent(transport), children() - before
    assert len(begun) == 2, "the login, and one shell"
    with pytest.raises(UnreachableError, match="sh gave none within"):
        transport.run(["sh", "-c", "exec sleep 1.5"], timeout_s=0.5)
    assert children() == before
    assert parent(transport) != loop
    assert transport.logins == 2
    wait_for(lambda: not is_loop(loop))


@pytest.mark.slurm
def test_twenty_threads_share_a_few_shells_and_none_is_left(transport: SshTransport) -> None:
    threads = threading.active_count()
    before = children()
    loops, together = set(), threading.Barrier(20)

    def ask(number: int) -> str:
        together.wait(30)
        answer = transport.run(["sh", "-c", f"echo $PPID; sleep 0.05; echo {number}"], timeout_s=60)
        loop, said = answer.out.split()
        loops.add(int(loop))
        return said

    with ThreadPoolExecutor(20) as pool:
        assert list(pool.map(ask, range(20))) == [str(number) for number in range(20)]
    # Ended ones may have been replaced, but no more than a few wait for the next command.
    wait_for(lambda: sum(is_loop(loop) for loop in loops) <= 2)
    assert transport.logins == 1
    transport.close()
    wait_for(lambda: not any(is_loop(loop) for loop in loops))
    assert children() == before
    assert threading.active_count() == threads


@pytest.mark.slurm
def test_login_that_broke_takes_its_shells_with_it(transport: SshTransport) -> None:
    before = children()
    loop, begun = parent(transport), children() - before
    assert transport._master is not None
    os.kill(transport._master.pid, signal.SIGKILL)
    transport._master.wait()
    assert parent(transport) != loop
    assert transport.logins == 2
    assert not begun & children()
    wait_for(lambda: not is_loop(loop))


@pytest.mark.slurm
def test_what_has_an_input_or_several_lines_has_a_session_of_its_own(transport: SshTransport) -> None:
    loop = parent(transport)
    assert transport.run(["cat"], timeout_s=30, stdin=b"a\0b").out == "a\0b"
    told = transport.run(["sh", "-c", "echo $PPID\nexit 3"], timeout_s=30)
    assert told.code == 3
    assert int(told.out) != loop
    assert parent(transport) == loop
    with pytest.raises(ValueError, match="null byte"):
        transport.run(["echo", "a\0b"], timeout_s=30)


CLIENT = """
import sys
from morphseq_dagster.cluster.connection import make_transport
from morphseq_dagster.settings.slurm import SlurmSettings
transport = make_transport(SlurmSettings.model_validate_json(sys.argv[1]))
print(transport.run(["sh", "-c", "echo $PPID"], timeout_s=30).out, end="", flush=True)
sys.stdin.read()
"""


@pytest.mark.slurm
@pytest.mark.parametrize("name", ["ssh", "dagster_slurm"])
def test_killed_client_leaves_no_process_on_either_side(cluster: LocalCluster, name: str) -> None:
    settings = cluster.settings(name).model_dump_json()
    client = subprocess.Popen(
        [sys.executable, "-c", CLIENT, settings], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert client.stdout is not None
    loop = int(client.stdout.readline())
    found = subprocess.run(["pgrep", "-P", str(client.pid)], capture_output=True, text=True, check=True).stdout.split()
    assert len(found) == 2, "the login, and one shell"
    client.kill()
    client.communicate()
    wait_for(lambda: not is_loop(loop) and not any(Path("/proc", pid).exists() for pid in found))


@pytest.mark.slurm
def test_login_node_without_a_shell_for_us_is_a_permanent_error(cluster: LocalCluster, tmp_path: Path) -> None:
    key, address = tmp_path / "id", cluster.address()
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    forced = r"case \"$SSH_ORIGINAL_COMMAND\" in exec\ cat) exec cat;; esac; echo only these: squeue >&2; exit 4"
    allowed = Path(cluster.variables["LOCAL_SLURM_HOME"]) / "keys" / "authorized_keys"
    before = allowed.read_text()
    allowed.write_text(f'{before}command="{forced}" {key.with_suffix(".pub").read_text()}')
    transport = SshTransport(dataclasses.replace(address, key=str(key)))
    try:
        with pytest.raises(PermanentError, match="only these: squeue"):
            transport.run(["squeue"], timeout_s=30)
    finally:
        transport.close()
        allowed.write_text(before)
