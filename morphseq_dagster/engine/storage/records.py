"""Provenance and failure records: the truth about every artifact, readable without Dagster.

Holds the record models, their files and the comparison of an output with its record. Does not decide what is stale
(`lineage`) and publishes nothing (`commit`).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from morphseq_dagster.backends import BackendIdentity
from morphseq_dagster.engine.layout import FAILURE_SUFFIX, RECORD_SUFFIX, TEMPORARY_SUFFIX, Layout
from morphseq_dagster.engine.storage.atomic_io import write_durably
from morphseq_dagster.engine.storage.hashing import hash_bytes, hash_file
from morphseq_dagster.errors import ErrorReport, PermanentError

RECORD_SCHEMA = 1
MAX_WELL_TRIES = 3
"""Tries of a well that fails for a transient reason, before its step counts as done without it."""
_PASSED_OVER = (RECORD_SUFFIX, FAILURE_SUFFIX, TEMPORARY_SUFFIX)
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

    Renames keep size, time and inode, hence the staged files tell what the published ones will be.
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


def digest_listing(folders: tuple[Path, ...]) -> str:
    """Digest name, size, time and inode of every file below the folders; records and temporaries do not count."""
    lines = []
    for number, folder in enumerate(folders):
        for name, status in list_names(folder):
            lines.append(f"{number}\0{name}\0{status.st_size}\0{status.st_mtime_ns}\0{status.st_ino}")
    return hash_bytes("\n".join(sorted(lines)).encode())


def compare_output(layout: Layout, *, record: Record, thorough: bool = False) -> OutputVerdict:
    """Compare a published output with its record.

    Size, time and inode as recorded answer at once; anything else is hashed. The hole: a file rewritten in place with
    its size and time restored passes, unless `thorough` hashes always.
    """
    output = record.output
    primary = layout.absolute(output.path)
    try:
        status = primary.stat()
    except FileNotFoundError:
        return OutputVerdict.MISSING
    same = (status.st_size, status.st_mtime_ns, status.st_ino) == (output.size, output.mtime_ns, output.inode)
    folders = tuple(layout.absolute(folder) for folder in output.folders)
    if any(not folder.is_dir() for folder in folders):
        return OutputVerdict.MISSING
    if same and not thorough and (not folders or digest_listing(folders) == output.listing):
        return OutputVerdict.AS_RECORDED
    if hash_file(primary) != output.sha256:
        return OutputVerdict.CHANGED
    return _compare_pictures(layout, primary=primary, folders=folders)


def _compare_pictures(layout: Layout, *, primary: Path, folders: tuple[Path, ...]) -> OutputVerdict:
    """Hash every picture of an image set against its manifest; a picture too many counts as changed."""
    if not folders:
        return OutputVerdict.AS_RECORDED
    from morphseq_dagster.engine.tables.image_set import read_file_entries

    expected = read_file_entries(primary)
    present = {layout.relative(path) for folder in folders for path, _ in list_tree(folder)} - {
        layout.relative(primary)
    }
    if set(expected) - present:
        return OutputVerdict.MISSING
    if present - set(expected):
        return OutputVerdict.CHANGED
    for path, entry in expected.items():
        if hash_file(layout.absolute(path)) != entry.sha256:
            return OutputVerdict.CHANGED
    return OutputVerdict.AS_RECORDED


def list_tree(folder: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """Yield the files below a folder that belong to an artifact or acquisition: no records, no temporaries."""
    for name, status in list_names(folder):
        yield folder / name, status


def list_names(folder: Path, prefix: str = "") -> Iterator[tuple[str, os.stat_result]]:
    """Yield the same files by their paths relative to the folder; a path object per file would cost most of the time.

    Parameters
    ----------
    folder
        Where to look.
    prefix
        Set before every name.
    """
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield from list_names(Path(entry.path), f"{prefix}{entry.name}/")
            elif not entry.name.endswith(_PASSED_OVER):
                yield f"{prefix}{entry.name}", entry.stat()


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
