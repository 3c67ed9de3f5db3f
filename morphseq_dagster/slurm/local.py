"""Local transport: the scheduler's commands are programs of this very host (a submit host).

Holds no connection; `put` and `get` are the file system.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from morphseq_dagster.errors import PermanentError
from morphseq_dagster.slurm.child import as_answer, run_child
from morphseq_dagster.slurm.errors import UnreachableError
from morphseq_dagster.slurm.records import write_whole
from morphseq_dagster.slurm.transport import Answer

_KEPT = ("SLURM_CONF", "SLURM_CONF_SERVER")
_STEERING = ("SLURM_", "SBATCH_", "SQUEUE_", "SACCT_", "SCANCEL_")


class LocalTransport:
    """Commands on the submit host itself."""

    name = "local"

    def run(self, argv: Sequence[str], *, timeout_s: float, stdin: bytes = b"") -> Answer:
        """Run a command here, without variables that would change what the scheduler's commands do or print."""
        # Inside an allocation (or after an export) such variables win over the options in a job script.
        environment = {k: v for k, v in os.environ.items() if k in _KEPT or not k.startswith(_STEERING)}
        try:
            done = run_child(argv, timeout_s=timeout_s, stdin=stdin, environment=environment | {"LC_ALL": "C.UTF-8"})
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
