"""Retirement: experiments that have left, marked as such; their records and files stay.

The mark is `.morphseq/retired/{exp}.json`. The command line removes the partition from Dagster.
"""

from __future__ import annotations

from datetime import UTC, datetime

from pydantic import BaseModel, ConfigDict, ValidationError

from morphseq_dagster.engine.layout import Layout
from morphseq_dagster.engine.storage.atomic_io import write_durably
from morphseq_dagster.engine.storage.records import encode
from morphseq_dagster.engine.storage.step_locks import holder_is_dead, read_lock
from morphseq_dagster.engine.workspace import Workspace
from morphseq_dagster.errors import PermanentError, TransientError


class Retired(BaseModel):
    """When an experiment was retired, on which host, and how many records it had."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    experiment: str
    retired_at: str
    host: str
    records: int


def refuse_retirement(workspace: Workspace, *, experiment: str) -> None:
    """Refuse to retire an experiment that is still there or at work.

    Raises
    ------
    PermanentError
        When its raw folder is there: it would be found and registered again at once.
    TransientError
        When somebody works on one of its steps.
    """
    layout = workspace.layout
    workspace.pipeline.keys.check(experiment)
    sources = [source for source in workspace.pipeline.find_sources(layout) if source.name == experiment]
    if sources:
        raise PermanentError(
            expected="an experiment whose raw folder is gone",
            found=f"{', '.join(layout.relative(source.path) for source in sources)} is there",
            where=f"experiment {experiment}",
            remedy="move the raw folder away first; as long as it is there the experiment is found again",
        )
    for path in sorted(layout.lock("*", experiment=experiment).parent.glob(f"{experiment}.*.json")):
        lock = read_lock(path)
        # A name that continues after a point is another experiment's only if it had a point, which no name has.
        if lock is not None and not holder_is_dead(lock):
            raise TransientError(
                expected="nobody at work on the experiment",
                found=f"{path.name.split('.')[1]} is held by {lock.holder()}",
                where=f"experiment {experiment}",
                remedy="wait for the run to end, then retire the experiment",
            )


def mark_retired(layout: Layout, *, experiment: str, host: str, records: int) -> Retired:
    """Write the mark of a retired experiment."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    retired = Retired(experiment=experiment, retired_at=now, host=host, records=records)
    write_durably(layout.retired(experiment), encode(retired))
    return retired


def read_retired(workspace: Workspace) -> frozenset[str]:
    """Names of the retired experiments; one whose raw folder has come back is no longer retired.

    Raises
    ------
    PermanentError
        When a mark cannot be understood.
    """
    layout = workspace.layout
    names = set()
    for path in sorted(layout.retired("x").parent.glob("*.json")):
        try:
            experiment = Retired.model_validate_json(path.read_bytes()).experiment
        except ValidationError as error:
            raise PermanentError(
                expected="the mark of a retired experiment",
                found=str(error.errors()[0]["msg"]),
                where=str(path),
                remedy="remove the file, then retire the experiment again",
            ) from error
        names.add(experiment)
    return frozenset(
        names.difference(source.name for source in workspace.pipeline.find_sources(layout)) if names else ()
    )
