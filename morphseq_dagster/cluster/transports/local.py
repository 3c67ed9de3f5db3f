"""Local transport: the scheduler's commands are programs of this very host (a submit host).

`run_program` starts the programs of all transports.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from morphseq_dagster.cluster.errors import UnreachableError
from morphseq_dagster.cluster.transports.protocol import Answer
from morphseq_dagster.engine.storage.atomic_io import write_whole
from morphseq_dagster.errors import PermanentError

_KEPT = ("PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "KRB5CCNAME", "SLURM_CONF", "SLURM_CONF_SERVER")
"""Variables of the scheduler's commands: none that steers them (SBATCH_*, SLURM_*), none that a job could inherit."""


class LocalTransport:
    """Commands on the submit host itself."""

    name = "local"

    def run(self, argv: Sequence[str], *, timeout_s: float, stdin: bytes = b"") -> Answer:
        """Run a command here, with few of this process's variables."""
        environment = {name: os.environ[name] for name in _KEPT if name in os.environ}
        try:
            done = run_program(argv, timeout_s=timeout_s, stdin=stdin, environment=environment | {"LC_ALL": "C.UTF-8"})
        except FileNotFoundError as error:
            raise PermanentError(
                expected=f"the command {argv[0]}",
                found="no such program on PATH",
                where="this host, transport local",
                remedy="run on a submit host of the cluster, or choose the transport ssh",
            ) from error
        if done is None:
            raise UnreachableError(
                expected=f"an answer of {argv[0]}",
                found=f"none within {timeout_s:g} s",
                where="this host, transport local",
                remedy="wait: jobs go on without us; the scheduler's controller may be down",
            )
        return as_answer(done)

    def put(self, path: str, data: bytes) -> None:
        """Write a file in one step."""
        write_whole(Path(path), data)

    def get(self, path: str) -> bytes:
        """Read a file."""
        return Path(path).read_bytes()

    def close(self) -> None:
        """Do nothing: there is no connection."""


def run_program(
    argv: Sequence[str], *, timeout_s: float, stdin: bytes, environment: Mapping[str, str] | None = None
) -> tuple[int, bytes, bytes] | None:
    """Run a program to its end; None when it had to be killed because the time was over.

    It has a session of its own: Ctrl-C in a terminal reaches every process of its group, and the answer of an `sbatch`
    that dies of it would be lost.

    Raises
    ------
    OSError
        When it cannot be started.
    """
    with subprocess.Popen(
        list(argv),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=None if environment is None else dict(environment),
        start_new_session=True,
    ) as child:
        try:
            out, err = child.communicate(stdin, timeout=timeout_s)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            # Not until its pipes end: a shared connection holds them for as long as the remote command runs.
            return None
        return child.returncode, out, err


def as_answer(done: tuple[int, bytes, bytes]) -> Answer:
    """Turn bytes into text; what is no UTF-8 stays visible as escapes."""
    code, out, err = done
    return Answer(code, out.decode("utf-8", "backslashreplace"), err.decode("utf-8", "backslashreplace"))
