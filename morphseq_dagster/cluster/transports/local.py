"""Local transport: the scheduler's commands are programs of this very host (a submit host).

Holds no connection; `put` and `get` are the file system.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from morphseq_dagster.cluster.errors import UnreachableError
from morphseq_dagster.cluster.records import write_whole
from morphseq_dagster.cluster.run_program import as_answer, run_program
from morphseq_dagster.cluster.transports.protocol import Answer
from morphseq_dagster.errors import PermanentError

_KEPT = ("PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "KRB5CCNAME", "SLURM_CONF", "SLURM_CONF_SERVER")
"""What the scheduler's commands see: nothing that steers them (SBATCH_*, SLURM_*), nothing that a job could inherit."""


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
        """Nothing to let go of."""
