"""Lasting shells: answers exact to the byte, one profile for many commands, nothing repeated and nothing left."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from morphseq_dagster.cluster.transports.shell import NoShellError, NotSentError, Shell, ShellEndedError
from morphseq_dagster.cluster.transports.ssh import _STEADY
from tests.support.slurm_bench import children, wait_for

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
