"""Lasting shell: one remote shell that runs commands one after another, so that its profile is read only once.

An answer lies between frames, lines with a token that is new for each command, so it is exact to the byte, whatever it
is. Logging in and keeping several shells is `ssh.py`.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import selectors
import shlex
import signal
import subprocess
import time
from collections.abc import Sequence
from typing import Final

_CHUNK: Final = 65536
_TAIL: Final = 1000
_LEAVE_S: Final = 2.0
"""Time that a shell has to leave by itself once its input has ended."""


class ShellEndedError(Exception):
    """A shell ended or was cut off; a command that it had got may or may not have run.

    Parameters
    ----------
    code
        How the program that leads to it ended: 255 when that is `ssh` and the connection broke; None if it did not.
    output
        Its last lines.
    """

    def __init__(self, code: int | None, output: str) -> None:
        super().__init__(output or f"the remote shell ended with code {code}")
        self.code = code


class NoShellError(ShellEndedError):
    """The program ended before it was a shell."""


class NotSentError(Exception):
    """The shell had ended before it got the whole command, which therefore did not run."""


class Shell:
    """One shell. Only one thread at a time may use it.

    Parameters
    ----------
    way
        Program and arguments; with one more argument, a command line, a login shell runs that.
    environment
        Arguments of `env` that the environment of all commands is made with.
    deadline
        Until when it must have begun, as `time.monotonic` counts.

    Raises
    ------
    NoShellError
        When it ended instead.
    TimeoutError
        When it did not begin in time.
    """

    def __init__(self, way: Sequence[str], *, environment: Sequence[str], deadline: float) -> None:
        halves = _make_token()
        # `read` returns a line only with its end: half a command, from a connection that broke, is never run. Without
        # single quotes, which login shells (csh, fish) escape differently.
        loop = f'{_frame(halves)}; while IFS= read -r line; do eval "$line"; done'
        self._process = subprocess.Popen(
            [*way, f"exec {shlex.join(['env', *environment, 'sh', '-c', loop])}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            start_new_session=True,
        )
        pipes = (self._process.stdin, self._process.stdout, self._process.stderr)
        self._in, self._out, self._err = (pipe.fileno() for pipe in pipes if pipe is not None)
        self._selector = selectors.DefaultSelector()
        self._is_clean = True
        try:
            for pipe in (self._in, self._out, self._err):
                os.set_blocking(pipe, False)
            for pipe in (self._out, self._err):
                self._selector.register(pipe, selectors.EVENT_READ)
            # Output before the first frame is that of the profiles.
            self._exchange(b"", halves, deadline=deadline)
        except ShellEndedError as error:
            raise NoShellError(error.code, str(error)) from error
        except BaseException:
            self.kill()
            raise

    def run(self, argv: Sequence[str], *, deadline: float) -> tuple[int, bytes, bytes]:
        """Run a program with an empty input; return code (128 + n after signal n), output and errors.

        Parameters
        ----------
        argv
            Program and arguments, of one line (`is_one_line`).
        deadline
            Until when it must have answered, as `time.monotonic` counts.

        Raises
        ------
        NotSentError, ShellEndedError
            When the shell ended before or after it got the command.
        TimeoutError
            When there was no answer in time. After each of these the shell is gone.
        ValueError
            For a command of several lines.
        """
        if not is_one_line(argv):
            raise ValueError("a lasting shell takes commands of one line")
        halves = _make_token()
        # In a fork, and by `exec`, so that it is always a program, never a word of the shell's own (`cd`, `exit`).
        line = f"(exec {shlex.join(argv)}) </dev/null; {_frame(halves)}\n"
        try:
            return self._exchange(os.fsencode(line), halves, deadline=deadline)
        except BaseException:
            self.kill()
            raise

    def is_ready(self) -> bool:
        """Whether it can take a command: it lives, and has printed nothing outside of answers."""
        return self._is_clean and not self._selector.select(0) and self._process.poll() is None

    def end(self) -> None:
        """Let it end, and wait for that."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_LEAVE_S)
        self.kill()

    def kill(self) -> None:
        """End it at once on this side; the other side sees the end of its input when its command is over."""
        if self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self._selector.close()
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            if pipe is not None:
                pipe.close()

    def _exchange(self, line: bytes, halves: tuple[str, str], *, deadline: float) -> tuple[int, bytes, bytes]:
        """Write a line and read both streams, whichever has something, up to their frames."""
        frame = re.compile(b"%b ([0-9]+)\n" % "".join(halves).encode())
        read = {self._out: bytearray(), self._err: bytearray()}
        ends: dict[int, re.Match[bytes]] = {}
        if line:
            self._selector.register(self._in, selectors.EVENT_WRITE)
        while line or len(ends) < len(read):
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError
            for key, _ in self._selector.select(left):
                if key.fd == self._in:
                    line = self._write(line)
                    continue
                data = os.read(key.fd, _CHUNK)
                if not data:
                    if line:
                        raise NotSentError
                    raise self._remove(read)
                text = read[key.fd]
                # A frame may come in pieces.
                begin = max(0, len(text) - 64)
                text += data
                end = frame.search(text, begin)
                if end is not None:
                    ends[key.fd] = end
        self._is_clean = all(ends[pipe].end() == len(text) for pipe, text in read.items())
        out, err = (bytes(read[pipe][: ends[pipe].start()]) for pipe in (self._out, self._err))
        return int(ends[self._out][1]), out, err

    def _write(self, line: bytes) -> bytes:
        """Write as much as it takes now; return the rest."""
        try:
            rest = line[os.write(self._in, line) :]
        except BrokenPipeError as error:
            raise NotSentError from error
        if not rest:
            self._selector.unregister(self._in)
        return rest

    def _remove(self, read: dict[int, bytearray]) -> ShellEndedError:
        """Clean up what has ended; return how it ended, with its last lines."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_LEAVE_S)
        for pipe, text in read.items():
            with contextlib.suppress(OSError):
                text.extend(os.read(pipe, _CHUNK))
        code = self._process.poll()
        self.kill()
        # Accounts without a shell print that to their output.
        words = read[self._err].strip() or read[self._out].strip()
        return ShellEndedError(code, words[-_TAIL:].decode("utf-8", "backslashreplace"))


def is_one_line(argv: Sequence[str]) -> bool:
    """Whether a lasting shell can take a command: line ends separate its commands, and none may contain NUL."""
    return not any(character in part for part in argv for character in "\n\0")


def _make_token() -> tuple[str, str]:
    """Make a token in two halves: a shell that shows its commands (`set -x`) does not show the whole."""
    token = secrets.token_hex(16)
    return token[:16], token[16:]


def _frame(halves: tuple[str, str]) -> str:
    """Shell text that ends both streams with a line of the token and a code, on the output that of the command."""
    mark = f'printf "%s%s %d\\n" {halves[0]} {halves[1]} "$?"'
    return f"{mark}; {mark} >&2"
