"""Provenance and failure records: the truth about every artifact, readable without Dagster.

An artifact is published together with its record (`commit.py`); what is stale is decided by the planner
(`engine/planner`), which compares records with what a step would be asked today.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from morphseq_dagster.backends import BackendIdentity
from morphseq_dagster.engine.layout import Layout
from morphseq_dagster.engine.storage.atomic_io import write_durably
from morphseq_dagster.engine.storage.file_lists import FileChange, compare_pictures, digest_listing
from morphseq_dagster.engine.storage.hashing import hash_file
from morphseq_dagster.engine.tables.image_set import read_file_entries
from morphseq_dagster.errors import ErrorReport, PermanentError

RECORD_SCHEMA = 1
MAX_WELL_TRIES = 3
"""Tries of a well that fails for a transient reason, before its step counts as done without it."""
_Model = TypeVar("_Model", bound=BaseModel)


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class InputRead(_Frozen):
    """One input with the hash that was actually read; None stands for an absent optional input."""

    name: str
    path: str
    sha256: str | None


class OutputState(_Frozen):
    """The published file as it was when it was recorded.

    `listing` digests size, time and inode of every file of an image set, so that one changed or lost picture is found
    without reading any; it is empty for single files.
    """

    path: str
    size: int
    mtime_ns: int
    inode: int
    sha256: str
    folders: tuple[str, ...] = ()
    listing: str = ""


class WellState(_Frozen):
    """Outcome of one well: its key, and the reason when it failed."""

    key: str
    status: Literal["ok", "failed"]
    reason: str = ""
    transient: bool = False
    tries: int = 1


class AdoptedFrom(_Frozen):
    """Where an adopted artifact came from: path (relative when below the data root), content hash, convention.

    The hash of a folder digests names and hashes of the files taken from it.
    """

    path: str
    sha256: str
    convention: str


class ExternalEdit(_Frozen):
    """An edit made outside the pipeline and declared valid: when, and what the step itself had published."""

    kept_at: str
    before_sha256: str


class Record(_Frozen):
    """Everything known of how an artifact was made.

    `condition` says what became of the bytes since: `pruned` ones are gone by intent and count as there, `discarded`
    ones are to be made again whatever lies on the disk. `environment` is the hash of packages and code that computed.
    """

    schema_version: int = RECORD_SCHEMA
    step: str
    experiment: str
    status: Literal["ok", "degraded", "unavailable"] = "ok"
    origin: Literal["computed", "adopted", "external_edit"] = "computed"
    condition: Literal["published", "pruned", "discarded"] = "published"
    adopted_from: AdoptedFrom | None = None
    external_edit: ExternalEdit | None = None
    data_version: str
    output: OutputState
    inputs: tuple[InputRead, ...]
    step_version: int
    recipe: dict[str, Any]
    recipe_hash: str
    request_key: str
    backend: BackendIdentity | None = None
    counts: dict[str, int] = Field(default_factory=dict)
    wells: dict[str, WellState] = Field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    run_id: str
    place: str
    environment: str = ""
    host: str
    pid: int
    started_at: str
    finished_at: str
    seconds: float
    cpu_seconds: float


class Failure(_Frozen):
    """Why the last attempt on an artifact failed; removed by the next success."""

    step: str
    experiment: str
    request_key: str
    error: ErrorReport
    run_id: str
    host: str
    failed_at: str
    tries: int = 1


class OutputVerdict(StrEnum):
    """How an output compares with its record."""

    AS_RECORDED = "as recorded"
    MISSING = "missing"
    CHANGED = "changed"


def read_record(layout: Layout, *, primary: Path) -> Record | None:
    """Read the record beside an artifact; None when there is none.

    Raises
    ------
    PermanentError
        When the record exists and cannot be understood: unknown is not the same as absent.
    OSError
        When the file system refuses.
    """
    return _read(layout.record(primary), Record)


def read_failure(layout: Layout, *, primary: Path) -> Failure | None:
    """Read the failure record beside an artifact; None when the last attempt did not fail."""
    return _read(layout.failure(primary), Failure)


def write_failure(layout: Layout, *, primary: Path, failure: Failure) -> None:
    """Store why an attempt failed."""
    write_durably(layout.failure(primary), encode(failure))


def clear_failure(layout: Layout, *, primary: Path) -> None:
    """Forget an earlier failure."""
    layout.failure(primary).unlink(missing_ok=True)


def encode(model: BaseModel) -> bytes:
    """Serialise a record for people and programs: indented, keys in the model's order."""
    return (model.model_dump_json(indent=1) + "\n").encode()


def describe_output(
    layout: Layout, *, primary: Path, staged_primary: Path, sha256: str, folders: tuple[tuple[Path, Path], ...]
) -> OutputState:
    """Describe a staged output; `folders` pairs each target folder with its staged one.

    Renames keep size, time and inode, hence the staged files show what the published ones will be.
    """
    status = staged_primary.stat()
    return OutputState(
        path=layout.relative(primary),
        size=status.st_size,
        mtime_ns=status.st_mtime_ns,
        inode=status.st_ino,
        sha256=sha256,
        folders=tuple(layout.relative(target) for target, _ in folders),
        listing=digest_listing(tuple(staged for _, staged in folders)) if folders else "",
    )


def look_at_output(
    layout: Layout, output: OutputState, *, list_folders: Callable[[tuple[Path, ...]], str | None] = digest_listing
) -> tuple[OutputVerdict | None, str]:
    """Compare an output with its record by looks: size, time and inode of the primary file and of every picture.

    Parameters
    ----------
    layout, output
        What was recorded, and where.
    list_folders
        Digests the files of an image set; None where they shall not be looked at.

    Returns
    -------
    tuple
        The verdict, None where the content alone can show it; and what was seen.
    """
    try:
        status = os.stat(f"{layout.data_root}/{output.path}")  # noqa: PTH116 - a third of the time of Path
    except FileNotFoundError:
        return OutputVerdict.MISSING, ""
    seen = f"{status.st_size}.{status.st_mtime_ns}.{status.st_ino}"
    same = seen == f"{output.size}.{output.mtime_ns}.{output.inode}"
    if output.folders:
        folders = tuple(layout.absolute(folder) for folder in output.folders)
        if not all(folder.is_dir() for folder in folders):
            return OutputVerdict.MISSING, seen
        listing = list_folders(folders)
        same = same and listing in (None, output.listing)
        seen += f".{listing or ''}"
    return OutputVerdict.AS_RECORDED if same else None, seen


def compare_output(layout: Layout, *, record: Record, thorough: bool = False) -> OutputVerdict:
    """Compare a published output with its record.

    Looks as recorded answer at once; anything else is hashed. The hole: a file rewritten in place with its size and
    time restored passes, unless `thorough` hashes always.
    """
    output = record.output
    verdict, _ = look_at_output(layout, output)
    if verdict is OutputVerdict.MISSING or (verdict is OutputVerdict.AS_RECORDED and not thorough):
        return verdict
    primary = layout.absolute(output.path)
    if hash_file(primary) != output.sha256:
        return OutputVerdict.CHANGED
    if not output.folders:
        return OutputVerdict.AS_RECORDED
    folders = tuple(layout.absolute(folder) for folder in output.folders)
    found = compare_pictures(layout, files=read_file_entries(primary), folders=folders, primary=primary)
    changes = {picture.change for picture in found}
    if FileChange.DELETED in changes:
        return OutputVerdict.MISSING
    return OutputVerdict.CHANGED if changes else OutputVerdict.AS_RECORDED


def timestamp() -> str:
    """Time now as records carry it."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _read(path: Path, model: type[_Model]) -> _Model | None:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    try:
        return model.model_validate_json(data)
    except ValidationError as error:
        raise PermanentError(
            expected=f"a {model.__name__.lower()} of schema {RECORD_SCHEMA}",
            found=f"{error.error_count()} problems, the first: {error.errors()[0]['msg']}",
            where=str(path),
            remedy="`morphseq reconcile --discard` gives the file up, a run then makes it again; or remove the damaged "
            "record, and `morphseq adopt` checks the file and gives it a new one"
            if model is Record
            else "remove the file",
        ) from error
