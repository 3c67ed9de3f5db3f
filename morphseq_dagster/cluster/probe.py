"""Probe: what a trivial job sees from its node, for `morphseq doctor --slurm --live`.

This is the program of that job: it reads a marker file below the data root, describes its environment and writes both
into a file. `cli/cluster_trial.py` submits it.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from morphseq_dagster.engine.executors.environment import EnvironmentDescription, describe_environment
from morphseq_dagster.engine.storage.atomic_io import host_name, write_durably


class Probe(BaseModel):
    """What a node reported.

    Parameters
    ----------
    host, at
        Its name, and the time by its clock (seconds since the epoch).
    marker
        Content of the marker file as seen from there; None when it is not there.
    environment
        What computes there.
    """

    model_config = ConfigDict(frozen=True)

    host: str
    at: float
    marker: str | None
    environment: EnvironmentDescription


def main(arguments: list[str] | None = None) -> int:
    """Look, and write the report."""
    parser = argparse.ArgumentParser(prog="morphseq_dagster.cluster.probe", description=__doc__)
    parser.add_argument("marker", type=Path)
    parser.add_argument("answer", type=Path)
    options = parser.parse_args(arguments)
    try:
        marker = options.marker.read_text(encoding="utf-8", errors="replace")
    except OSError:
        marker = None
    probe = Probe(host=host_name(), at=time.time(), marker=marker, environment=describe_environment())
    write_durably(options.answer, probe.model_dump_json().encode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
