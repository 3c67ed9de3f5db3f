"""SSH transport: OpenSSH with one login that all commands share.

One master process logs in. Commands go to a few lasting shells (`shell.py`), each a channel of its connection; a
command with an input has a channel of its own. Master and shells hang on pipes of this process, so they end with it,
however it ends. Where to log in is a `Login`, such as `settings/ssh_address.py`.
"""

from __future__ import annotations

import contextlib
import shlex
import subprocess
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from morphseq_dagster.cluster.errors import UnreachableError
from morphseq_dagster.cluster.transports.local import as_answer, run_program
from morphseq_dagster.cluster.transports.protocol import Answer
from morphseq_dagster.cluster.transports.shell import NoShellError, NotSentError, Shell, ShellEndedError, is_one_line
from morphseq_dagster.errors import PermanentError

_OWN_FAILURE = 255
_NO_COMMAND = 127
_CHANNELS = 6
"""Commands at once: servers allow 10 sessions per connection by default, and the master is one."""
_IDLE = 2
"""Shells that are kept for the next command; with those at work and the master still below that."""
_TAKEN = (
    *("SQUEUE_FORMAT", "SQUEUE_FORMAT2", "SACCT_FORMAT", "SBATCH_EXPORT", "SBATCH_GET_USER_ENV"),
    *("BASH_ENV", "ENV", "SHELLOPTS", "TMOUT", "LD_LIBRARY_PATH", "LD_PRELOAD", "PYTHONPATH", "PYTHONHOME", "TMPDIR"),
)
_STEADY = (*(part for name in _TAKEN for part in ("-u", name)), "LC_ALL=C.UTF-8")
"""Arguments of `env` that take away what a login shell may have set against us, or a job could inherit."""
_REFUSALS = (
    "permission denied",
    "host key verification failed",
    "too many authentication failures",
    "no such identity",
)


class Login(Protocol):
    """Where to log in and how, as arguments of `ssh`."""

    @property
    def host(self) -> str:
        """Name of the login node."""
        ...

    def options(self) -> list[str]:
        """Options of `ssh` for the login node, without the host and without the way there."""
        ...

    def route(self) -> list[str]:
        """Options of `ssh` for the way to the login node: the jump host, if there is one."""
        ...


class SshTransport:
    """Commands on a login node over one shared connection.

    A login shell reads its profile, often a second of `module`, once per lasting shell and not once per command.

    Parameters
    ----------
    login
        Where to log in.
    """

    name = "ssh"

    def __init__(self, login: Login) -> None:
        self._login = login
        self._lock = threading.Lock()
        self._channels = threading.BoundedSemaphore(_CHANNELS)
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._master: subprocess.Popen[bytes] | None = None
        self._idle: list[Shell] = []
        self._had_shell = False
        self.logins = 0

    def run(self, argv: Sequence[str], *, timeout_s: float, stdin: bytes = b"") -> Answer:
        """Run a command there; its arguments are quoted for the remote shell."""
        with self._channels:
            if not stdin and is_one_line(argv):
                done = self._run_in_shell(argv, timeout_s=timeout_s)
            else:
                done = self._run_alone(["env", *_STEADY, *argv], name=argv[0], timeout_s=timeout_s, stdin=stdin)
        answer = as_answer(done)
        if answer.code == _NO_COMMAND:
            raise PermanentError(
                expected=f"the command {argv[0]}",
                found=answer.err.strip() or "no such program",
                where=f"login node {self._login.host}",
                remedy="name the folder of the scheduler's commands in places.slurm.commands",
            )
        return answer

    def put(self, path: str, data: bytes) -> None:
        """Write a file there in one step."""
        temporary = f"{path}.part"
        for argv, stdin in ((["tee", "--", temporary], data), (["mv", "-f", "--", temporary, path], b"")):
            answer = self.run(argv, timeout_s=60, stdin=stdin)
            if answer.code != 0:
                raise OSError(f"{self._login.host}: {answer.err.strip()}")

    def get(self, path: str) -> bytes:
        """Read a file there."""
        with self._channels:
            done = self._run_alone(["cat", "--", path], name=path, timeout_s=60, stdin=b"")
        if done[0] != 0:
            raise FileNotFoundError(2, done[2].decode("utf-8", "backslashreplace").strip(), path)
        return done[1]

    def close(self) -> None:
        """Log out."""
        self._drop()
        with self._lock:
            if self._folder is not None:
                self._folder.cleanup()
                self._folder = None

    def _run_in_shell(self, argv: Sequence[str], *, timeout_s: float) -> tuple[int, bytes, bytes]:
        """Run a command in a shell that waits for one, or in a new one."""
        channel, login = self._connect()
        deadline = time.monotonic() + timeout_s
        try:
            while True:
                shell = self._take_shell(login) or Shell(channel, environment=_STEADY, deadline=deadline)
                self._had_shell = True
                with contextlib.suppress(NotSentError):
                    done = shell.run(argv, deadline=deadline)
                    break
        except TimeoutError as error:
            self._drop(login)
            raise self._no_answer(f"{argv[0]} gave none within {timeout_s:g} s") from error
        except ShellEndedError as error:
            # Who has had a shell there will have one again.
            if isinstance(error, NoShellError) and error.code != _OWN_FAILURE and not self._had_shell:
                raise PermanentError(
                    expected="a login shell that runs what it is asked to",
                    found=str(error),
                    where=f"login node {self._login.host}",
                    remedy="make `ssh HOST -- exec env sh -c true` work: no forced command, no profile that ends",
                ) from error
            raise self._no_answer(str(error)) from error
        self._keep_shell(shell, login)
        return done

    def _take_shell(self, login: int) -> Shell | None:
        while True:
            with self._lock:
                if not self._idle or login != self.logins:
                    return None
                shell = self._idle.pop()
            if shell.is_ready():
                return shell
            shell.kill()

    def _keep_shell(self, shell: Shell, login: int) -> None:
        with self._lock:
            if self._master is not None and login == self.logins and len(self._idle) < _IDLE:
                self._idle.append(shell)
                return
        shell.end()

    def _run_alone(self, argv: Sequence[str], *, name: str, timeout_s: float, stdin: bytes) -> tuple[int, bytes, bytes]:
        """Run a command on a channel of its own."""
        channel, login = self._connect()
        done = run_program([*channel, shlex.join(argv)], timeout_s=timeout_s, stdin=stdin)
        if done is None:
            self._drop(login)
            raise self._no_answer(f"{name} gave none within {timeout_s:g} s")
        if done[0] == _OWN_FAILURE:
            raise self._no_answer(done[2].decode("utf-8", "backslashreplace").strip() or "the connection broke")
        return done

    def _channel(self, socket: Path) -> list[str]:
        """Begin of a command line through the shared connection."""
        # Without the shared connection ssh would quietly log in again, once per command. First, because of options
        # that are given twice ssh takes the first.
        alone = ["-o", f"ControlPath={socket}", "-o", "ControlMaster=no", "-o", "ProxyCommand=false"]
        return ["ssh", *alone, *self._login.options(), "-T", self._login.host, "--"]

    def _connect(self) -> tuple[list[str], int]:
        """Log in unless that was done; return the begin of a command line, and which login it is."""
        with self._lock:
            if self._folder is None:
                # A socket's path may have about 100 characters: not below a working folder of any depth.
                self._folder = tempfile.TemporaryDirectory(prefix="mseq-ssh-", dir="/tmp")
            socket = Path(self._folder.name) / "c"
            if self._master is not None and self._master.poll() is None and socket.exists():
                return self._channel(socket), self.logins
            self._end_master()
            socket.unlink(missing_ok=True)
            self._log_in(socket)
            return self._channel(socket), self.logins

    def _log_in(self, socket: Path) -> None:
        shared = ["-o", f"ControlPath={socket}", "-o", "ControlMaster=yes", "-o", "ControlPersist=no"]
        command = ["ssh", *shared, *self._login.route(), *self._login.options()]
        command += ["-T", self._login.host, "--", "exec cat"]
        with tempfile.TemporaryFile() as errors:
            self.logins += 1
            master = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=errors, start_new_session=True
            )
            self._master = master
            deadline = time.monotonic() + 30
            while master.poll() is None and not socket.exists() and time.monotonic() < deadline:
                time.sleep(0.01)
            if socket.exists():
                return
            self._end_master()
            errors.seek(0)
            text = errors.read().decode("utf-8", "backslashreplace").strip()
        if any(refusal in text.lower() for refusal in _REFUSALS):
            raise PermanentError(
                expected="to be let in",
                found=text,
                where=f"login node {self._login.host}",
                remedy="check key, agent, user and known host keys with an ordinary `ssh -o BatchMode=yes`",
            )
        raise self._no_answer(text or "no connection within 30 s")

    def _drop(self, login: int | None = None) -> None:
        """End the connection, unless it is another one by now than that of the named login."""
        with self._lock:
            if login in (None, self.logins):
                self._end_master()

    def _end_master(self) -> None:
        for shell in self._idle:
            shell.kill()
        self._idle.clear()
        if self._master is None:
            return
        if self._master.stdin is not None:
            with contextlib.suppress(OSError):
                self._master.stdin.close()
        self._master.terminate()
        try:
            self._master.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._master.kill()
            self._master.wait()
        self._master = None

    def _no_answer(self, found: str) -> UnreachableError:
        return UnreachableError(
            expected="an answer",
            found=found,
            where=f"login node {self._login.host}",
            remedy="wait: jobs go on without us, contact is sought again by itself",
        )
