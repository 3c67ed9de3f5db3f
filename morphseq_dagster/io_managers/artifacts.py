"""The IO manager of all artifacts: tables, documents and image sets.

It commits what ran in this process, verifies what another process has committed, and hands downstream steps a lazy
reference: nothing is read before a step knows that it must run.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import dagster as dg

from morphseq_dagster.engine.executors.protocol import Committed, Executed
from morphseq_dagster.engine.locked_step import finish
from morphseq_dagster.engine.storage.records import Record, read_record
from morphseq_dagster.engine.workspace import Workspace
from morphseq_dagster.errors import PermanentError, report, restore


@dataclass(frozen=True)
class ArtifactReference:
    """Where an artifact lies and which version it has, without its content."""

    name: str
    path: Path
    record: Record


class ArtifactIOManager(dg.IOManager):
    """Commit and lazy references for the artifacts below one data root.

    Parameters
    ----------
    workspace
        The data root.
    """

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace

    def handle_output(self, context: dg.OutputContext, obj: Executed | Committed) -> None:
        """Publish a staged result, or verify a published one.

        Raises
        ------
        TransientError
            When the operating system refuses, with its remedy.
        PermanentError
            When a published result is not the recorded one.
        """
        try:
            record = finish(self._workspace.layout, outcome=obj)
        except OSError as error:
            raise restore(report(error)) from error
        context.log.info("published %s (%s)", record.output.path, record.data_version[:12])

    def load_input(self, context: dg.InputContext) -> ArtifactReference:
        """Hand out a reference to an upstream artifact.

        Raises
        ------
        PermanentError
            When the artifact has no record.
        """
        upstream = context.upstream_output
        if upstream is None:
            raise ValueError(f"input {context.name} has no upstream output")
        name, experiment = upstream.asset_key.path[-1], context.partition_key
        primary = self._workspace.output(name, experiment=experiment)
        record = read_record(self._workspace.layout, primary=primary)
        if record is None:
            raise PermanentError(
                expected=f"the artifact {name}",
                found="no record",
                where=str(primary),
                remedy=f"morphseq materialize --partition {experiment} --select {name}",
            )
        return ArtifactReference(name, primary, record)
