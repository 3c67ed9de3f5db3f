"""Transports: the way to a host where the scheduler's commands can be called.

A transport runs a command, and puts and gets a file. It knows no jobs, never repeats a command and judges nothing: it
answers or raises `UnreachableError`. `local.py` is this very host, `ssh.py` a login node.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Answer:
    """Code and output of a command."""

    code: int
    out: str
    err: str


class Transport(Protocol):
    """A way to a submit host."""

    name: str

    def run(self, argv: Sequence[str], *, timeout_s: float, stdin: bytes = b"") -> Answer:
        """Run a command there.

        Raises
        ------
        UnreachableError
            When there is no answer within the time; the command may or may not have run.
        PermanentError
            When the host refuses the login, or has no such command.
        """
        ...

    def put(self, path: str, data: bytes) -> None:
        """Write a file there in one step: under another name, then renamed."""
        ...

    def get(self, path: str) -> bytes:
        """Read a file there.

        Raises
        ------
        FileNotFoundError
            When it is not there.
        """
        ...

    def close(self) -> None:
        """Close the connection, if there is one."""
        ...
