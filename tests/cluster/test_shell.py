"""Lasting shells: answers exact to the byte, one profile for many commands, nothing repeated and nothing left."""

from __future__ import annotations

import dataclasses
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from morphseq_dagster.cluster.connection import make_transport
from morphseq_dagster.cluster.errors import UnreachableError
from morphseq_dagster.cluster.transports.shell import NoShellError, NotSentError, Shell, ShellEndedError
from morphseq_dagster.cluster.transports.ssh import _STEADY, SshTransport
from morphseq_dagster.errors import PermanentError
from tests.support.slurm_bench import wait_for
from tests.support.slurm_cluster import LocalCluster

HERE = ("sh", "-c")
NASTY = [
    "a b",
    "$HOME",
    "`id`",
    "x;y",
    "'",
    '"',
    "''\"",
    "\\",
    "\\n",
    "*",
    "~",
    "-n",
    "--",
    "&",
    "|",
    "#",
    "!",
    "",
    "ä",
]
LOOP = "while IFS= read -r line"


def soon(seconds: float = 120) -> float:
    return time.monotonic() + seconds


def start(*way: str) -> Shell:
    return Shell(way or HERE, environment=["-u", "TAKEN", "GIVEN=1"], deadline=soon())


@pytest.fixture(params=["sh", "bash"])
def shell(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Shell]:
    """A shell of this machine: what it has as `sh`, and Bash under that name, as many clusters have."""
    program = shutil.which(request.param)
    if program is None:
        pytest.skip(f"no {request.param} here")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "sh").symlink_to(program)
    found = start("env", f"PATH={tmp_path}/bin:{os.environ['PATH']}", *HERE)
    yield found
    found.kill()


def children() -> set[int]:
    """Processes that this one started and that are there."""
    return {int(pid) for task in Path("/proc/self/task").iterdir() for pid in (task / "children").read_text().split()}


def run(shell: Shell, *argv: str) -> tuple[int, bytes, bytes]:
    return shell.run(argv, deadline=soon())


@pytest.mark.parametrize("text", ["", "x", "x\n", "\n\n", "a\\0b", "\\377\\n\\376", " x ", "7\n0"])
def test_both_streams_are_exact(shell: Shell, text: str) -> None:
    told = text.replace("\n", "\\n")
    expected = text.replace("\\0", "\0").encode().replace(b"\\377", b"\xff").replace(b"\\376", b"\xfe")
    expected = expected.replace(b"\\n", b"\n")
    assert run(shell, "sh", "-c", 'printf "$0"; printf "e$0" >&2', told) == (0, expected, b"e" + expected)
    assert run(shell, "printf", "%s", "next") == (0, b"next", b"")


def test_large_output_of_both_streams_at_once(shell: Shell) -> None:
    code = "import os, threading\n"
    code += "def say(n): [os.write(n, (b'%d' % n) * 1000) for _ in range(1000)]\n"
    code += "t = threading.Thread(target=say, args=(2,)); t.start(); say(1); t.join()"
    assert run(shell, sys.executable, "-c", code.replace("\n", "\r")) == (0, b"1" * 1_000_000, b"2" * 1_000_000)


def test_command_that_is_larger_than_a_pipe(shell: Shell) -> None:
    words = [str(number) for number in range(30_000)]
    assert run(shell, "printf", "%s ", *words) == (0, (" ".join(words) + " ").encode(), b"")


@pytest.mark.parametrize(("ending", "code"), [("exit 0", 0), ("exit 7", 7), ("exit 255", 255), ("kill -9 $$", 137)])
def test_code_is_that_of_the_command(shell: Shell, ending: str, code: int) -> None:
    assert run(shell, "sh", "-c", f"echo x; {ending}")[:2] == (code, b"x\n")
    assert run(shell, "true")[0] == 0


def test_missing_program_has_a_code_of_its_own(shell: Shell) -> None:
    code, out, err = run(shell, "no-such-program", "x")
    assert (code, out) == (127, b"")
    assert b"no-such-program" in err


def test_arguments_arrive_as_they_are(shell: Shell) -> None:
    assert run(shell, "printf", "%s\\0", *NASTY)[1] == b"".join(word.encode() + b"\0" for word in NASTY)
    raw = os.fsdecode(b"\xff\xfe")
    assert run(shell, "printf", "%s", raw)[1] == b"\xff\xfe"


@pytest.mark.parametrize("text", ["a\nb", "a\0b"])
def test_what_is_not_one_line_is_refused(shell: Shell, text: str) -> None:
    with pytest.raises(ValueError, match="one line"):
        run(shell, "echo", text)
    assert run(shell, "echo", "on")[1] == b"on\n"


@pytest.mark.parametrize("word", [["cd", "/"], ["exit", "3"], ["umask", "077"], ["return", "1"], ["exec", "true"]])
def test_commands_are_programs_and_leave_the_shell_as_it_was(shell: Shell, word: list[str]) -> None:
    before = run(shell, "sh", "-c", "pwd; umask; echo $PPID")
    run(shell, *word)
    assert run(shell, "sh", "-c", "pwd; umask; echo $PPID") == before


@pytest.mark.parametrize("word", ["exit", "return", "exec", "eval"])
def test_words_of_the_shell_are_no_programs(shell: Shell, word: str) -> None:
    assert run(shell, word, "true")[0] == 127


def test_answer_that_comes_byte_by_byte_is_whole() -> None:
    shell = start("sh", "-c", 'eval "$0" | dd bs=1 2>/dev/null')
    assert run(shell, "printf", "ab") == (0, b"ab", b"")
    assert run(shell, "printf", r"c\n") == (0, b"c\n", b"")
    shell.end()


def test_input_is_empty_and_no_command_of_a_later_line(shell: Shell) -> None:
    assert run(shell, "cat") == (0, b"", b"")
    assert run(shell, "echo", "on")[1] == b"on\n"


def test_environment_is_made_once_for_all_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TAKEN", "x")
    shell = start()
    assert run(shell, "sh", "-c", "echo ${TAKEN-none} $GIVEN")[1] == b"none 1\n"
    shell.end()


def test_what_a_profile_sets_against_us_is_taken_away() -> None:
    """TMOUT ends a shell that waits for a line, SHELLOPTS makes it talk, the others steer the commands."""
    profile = "export TMOUT=900 SBATCH_EXPORT=ALL SQUEUE_FORMAT=%i BASH_ENV=/x LC_ALL=de_DE; set -x; export SHELLOPTS"
    shell = Shell(("bash", "-c", f'{profile}; eval "$0"'), environment=_STEADY, deadline=soon())
    code, out, err = run(shell, "env")
    told = dict(line.split("=", 1) for line in out.decode().splitlines() if "=" in line)
    assert (code, err, told["LC_ALL"]) == (0, b"", "C.UTF-8")
    assert not {"TMOUT", "SHELLOPTS", "SBATCH_EXPORT", "SQUEUE_FORMAT", "BASH_ENV"} & set(told)
    shell.end()


@pytest.mark.parametrize(
    "profile",
    ["echo Welcome; echo Maintenance >&2", "printf 'no end'; printf 'no end' >&2", "set -x", "set -v; set -x"],
)
def test_words_of_a_profile_are_in_no_answer(profile: str) -> None:
    shell = start("bash", "-c", f'{profile}; eval "$0"')
    assert run(shell, "echo", "a") == (0, b"a\n", b"")
    shell.end()


@pytest.mark.parametrize(
    ("profile", "code", "said"),
    [
        ("echo This account is currently not available.; exit 1", 1, "This account is currently not available."),
        ("echo only these: squeue >&2; exit 0", 0, "only these: squeue"),
        ("exit 3", 3, "ended with code 3"),
    ],
)
def test_login_shell_that_runs_nothing_is_told_with_its_words(profile: str, code: int, said: str) -> None:
    with pytest.raises(NoShellError, match=said) as caught:
        start("sh", "-c", profile)
    assert caught.value.code == code


def test_login_shell_that_waits_is_ended_in_time() -> None:
    before = children()
    with pytest.raises(TimeoutError):
        Shell(("sh", "-c", "exec sleep 60"), environment=[], deadline=soon(0.5))
    assert children() == before


def test_hanging_command_is_ended_in_time(shell: Shell) -> None:
    with pytest.raises(TimeoutError):
        shell.run(["sleep", "60"], deadline=soon(0.3))


def test_shell_that_ends_under_its_command_is_no_answer(shell: Shell) -> None:
    with pytest.raises(ShellEndedError):
        run(shell, "sh", "-c", "echo 1; kill -9 $PPID")


def test_dead_shell_is_not_ready_and_is_not_told(shell: Shell, tmp_path: Path) -> None:
    assert shell.is_ready()
    os.kill(int(run(shell, "sh", "-c", "echo $PPID")[1]), signal.SIGKILL)
    wait_for(lambda: shell._process.poll() is not None)
    assert not shell.is_ready()
    with pytest.raises(NotSentError):
        run(shell, "touch", str(tmp_path / "ran"))
    assert not (tmp_path / "ran").exists()


def test_half_a_command_is_never_run(shell: Shell, tmp_path: Path) -> None:
    """A connection that breaks in mid-command ends the shell's input there."""
    assert shell._process.stdin is not None
    os.write(shell._process.stdin.fileno(), f"touch {tmp_path}/ran".encode())
    shell._process.stdin.close()
    assert shell._process.wait(20) == 0
    assert not (tmp_path / "ran").exists()


def test_shell_with_words_that_nobody_asked_for_is_not_ready(shell: Shell, tmp_path: Path) -> None:
    late = f"(while [ ! -e {tmp_path}/go ]; do sleep 0.05; done; echo late) &"
    assert run(shell, "sh", "-c", late) == (0, b"", b"")
    assert shell.is_ready()
    (tmp_path / "go").touch()
    wait_for(lambda: not shell.is_ready())


def test_interrupted_wait_leaves_no_shell(shell: Shell) -> None:
    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.3)
    try:
        with pytest.raises(KeyboardInterrupt):
            run(shell, "sleep", "60")
    finally:
        signal.signal(signal.SIGALRM, before)
    assert shell._process.poll() is not None


# over the network


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
