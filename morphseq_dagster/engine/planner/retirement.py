"""Retirement: experiments that have left, marked as such; their records and files stay.

Holds the mark, `.morphseq/retired/{exp}.json`, and whether an experiment may be retired. Without Dagster: who removes
the partition is the command line.
"""

from __future__ import annotations

from datetime import UTC, datetime

from pydantic import BaseModel, ConfigDict, ValidationError

from morphseq_dagster.engine.layout import MICROSCOPES, Layout
from morphseq_dagster.engine.storage.atomic_io import write_durably
from morphseq_dagster.engine.storage.records import encode
from morphseq_dagster.engine.storage.step_locks import holder_is_dead, read_lock
from morphseq_dagster.errors import PermanentError, TransientError
from morphseq_dagster.identifiers import check_experiment


class Retired(BaseModel):
    """When an experiment was retired, on which host, and how many records it had."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    experiment: str
    retired_at: str
    host: str
    records: int


def refuse_retirement(layout: Layout, *, experiment: str) -> None:
    """Refuse to retire an experiment that is still there or at work.

    Raises
    ------
    PermanentError
        When its raw folder is there: it would be found and registered again at once.
    TransientError
        When somebody works on one of its steps.
    """
    check_experiment(experiment)
    folders = [layout.raw_folder(m, experiment=experiment) for m in MICROSCOPES]
    present = [layout.relative(folder) for folder in folders if folder.is_dir()]
    if present:
        raise PermanentError(
            expected="an experiment whose raw folder is gone",
            found=f"{', '.join(present)} is there",
            where=f"experiment {experiment}",
            remedy="move the raw folder away first; as long as it is there the experiment is found again",
        )
    for path in sorted(layout.claim("*", experiment=experiment).parent.glob(f"{experiment}.*.json")):
        claim = read_lock(path)
        # A name that continues after a point is another experiment's only if it had a point, which no name has.
        if claim is not None and not holder_is_dead(claim):
            raise TransientError(
                expected="nobody at work on the experiment",
                found=f"{path.name.split('.')[1]} is held by {claim.holder()}",
                where=f"experiment {experiment}",
                remedy="wait for the run to end, then retire the experiment",
            )


def mark_retired(layout: Layout, *, experiment: str, host: str, records: int) -> Retired:
    """Write the mark of a retired experiment."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    retired = Retired(experiment=experiment, retired_at=now, host=host, records=records)
    write_durably(layout.retired(experiment), encode(retired))
    return retired


def read_retired(layout: Layout) -> frozenset[str]:
    """Names of the retired experiments; one whose raw folder has come back is no longer retired.

    Raises
    ------
    PermanentError
        When a mark cannot be understood.
    """
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
        if not any(layout.raw_folder(m, experiment=experiment).is_dir() for m in MICROSCOPES):
            names.add(experiment)
    return frozenset(names)
