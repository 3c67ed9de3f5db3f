"""Gate: a real cluster on which jobs wait, and questions stay without an answer, until a test opens it.

A small script goes before `squeue`: it counts, is silent or slow if a test wants it, and calls the real one.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from morphseq_dagster.settings.slurm import SlurmSettings
from tests.support.slurm_cluster import LocalCluster

_SQUEUE = """#!/bin/sh
here=$(dirname "$0")
echo "$PPID $*" >> "$here/asked"
while [ -e "$here/stall" ]; do sleep 0.1; done
if [ -e "$here/mute" ] || [ -e "$here/cut" ]; then
  echo "slurm_load_jobs error: Unable to contact slurm controller (connect failure)" >&2
  exit 1
fi
exec squeue "$@"
"""
_OTHER = """#!/bin/sh
here=$(dirname "$0")
if [ -e "$here/cut" ]; then
  echo "{name}: error: Unable to contact slurm controller (connect failure)" >&2
  exit 1
fi
echo "$*" >> "$here/{name}.calls"
exec {name} "$@"
"""


@dataclass(frozen=True)
class Gate:
    """Switches before a cluster.

    Parameters
    ----------
    cluster
        The cluster.
    folder
        Folder for the commands that go before the cluster's own.
    """

    cluster: LocalCluster
    folder: Path

    def __post_init__(self) -> None:
        """Write the commands."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for name in ("squeue", "sbatch", "sacct", "scancel"):
            path = self.folder / name
            path.write_text(_SQUEUE if name == "squeue" else _OTHER.format(name=name))
            path.chmod(0o755)

    def settings(self, **more: object) -> SlurmSettings:
        """Machine settings that name the cluster, with the commands of this folder."""
        # The code may be edited while tests run; what a job must find is not what they are about.
        here = {"commands": str(self.folder), "resources": {"memory": "200M", "time": 10}, "environment": "any"}
        return self.cluster.settings("local", **here | more)

    def close(self) -> None:
        """Let no job begin: all wait in the queue."""
        self.cluster.ask("scontrol", "update", "partition=cpu", "state=DOWN")

    def open(self) -> None:
        """Let jobs begin, and questions be answered."""
        self.cluster.ask("scontrol", "update", "partition=cpu", "state=UP")
        for name in ("mute", "stall", "cut"):
            (self.folder / name).unlink(missing_ok=True)

    def switch(self, name: Literal["mute", "stall", "cut"], *, on: bool) -> None:
        """Give no answer, none yet, or none to any command."""
        path = self.folder / name
        if on:
            path.touch()
        else:
            path.unlink(missing_ok=True)

    def asked(self) -> list[str]:
        """Questions to the controller: asking process and arguments of each."""
        path = self.folder / "asked"
        return path.read_text().splitlines() if path.exists() else []

    def calls(self, name: Literal["sbatch", "sacct", "scancel"]) -> list[str]:
        """Arguments of every call of another command that reached the cluster."""
        path = self.folder / f"{name}.calls"
        return path.read_text().splitlines() if path.exists() else []

    def jobs(self) -> list[str]:
        """Numbers of all jobs that have not ended."""
        return self.cluster.ask("squeue", "-h", "-o", "%i").split()
