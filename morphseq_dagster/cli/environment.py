"""`morphseq environment`: which Python, packages and code compute here, and whether the cluster has the same."""

from __future__ import annotations

from typing import Annotated

import typer

from morphseq_dagster.cli.messages import printable
from morphseq_dagster.cli.options import Call, verb


@verb(example="morphseq environment")
def environment(
    call: Call,
    *,
    record: Annotated[
        bool, typer.Option("--record", help="On the cluster: record this environment as the one that jobs use.")
    ] = False,
) -> None:
    """Show the environment that computes here.

    Exit code 1 when the one that is recorded for the cluster differs from it.
    """
    from morphseq_dagster.engine.executors.environment import (
        compare_environments,
        describe_environment,
        read_recorded,
        read_stored,
        record_environment,
    )
    from morphseq_dagster.engine.executors.installed import installed_version

    settings, layout = call.settings, call.workspace.layout
    here = describe_environment()
    print(f"environment {here.hash}")
    print(f"Python {here.python}, {len(here.packages)} packages, {len(here.models)} of neural backends beside them")
    print(f"code {here.code[:12]}")
    if call.verbose:
        for name, version in {**here.packages, **here.models}.items():
            print(f"  {name}=={version}")
    if settings.places.slurm is not None:
        print(f"jobs must find: {settings.places.slurm.environment} (places.slurm.environment)")
    if record:
        recorded = record_environment(layout)
        print(f"recorded as the cluster's, {recorded.recorded_at} on {printable(recorded.host)}")
        return
    known = read_recorded(layout)
    if known is None:
        print("no environment of a cluster is recorded (`morphseq environment --record`, run there)")
        return
    print(f"the cluster's: {known.hash[:12]}, recorded {known.recorded_at} on {printable(known.host)}")
    cluster = read_stored(layout, digest=known.hash)
    differences = compare_environments(cluster, found=here, look=installed_version)
    for difference in differences:
        print(f"  differs: {printable(difference)}")
    raise typer.Exit(1 if differences else 0)
