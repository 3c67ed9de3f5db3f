"""Children: run one program with a time limit in a session of its own.

Holds what both transports share. Ctrl-C in a terminal reaches every process of its group; an `sbatch` that dies of it
in mid-submit would leave its answer unknown, hence the own session.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence

from morphseq_dagster.cluster.transports.protocol import Answer


def run_program(
    argv: Sequence[str], *, timeout_s: float, stdin: bytes, environment: Mapping[str, str] | None = None
) -> tuple[int, bytes, bytes] | None:
    """Run a program to its end; None when it had to be killed because the time was over.

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
