"""Checkpoints: finished wells of a step that has not been published yet, so that a killed run loses one well at most.

A checkpoint is valid when its key answers and every file has its recorded hash; anything else is as if it were not
there. `map_wells` (`contract/wells.py`) writes and reads them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from morphseq_dagster.engine.storage.atomic_io import (
    make_folder,
    remove_folder,
    replace_folder,
    sync_tree,
    temporary_beside,
    write_file,
)
from morphseq_dagster.engine.storage.hashing import canonical_json, hash_bytes, hash_file

_DOCUMENT = "checkpoint.json"


class _Stored(BaseModel):
    model_config = ConfigDict(frozen=True)

    key: str
    data: dict[str, Any]
    files: dict[str, str]


@dataclass(frozen=True)
class WellPayload:
    """What a step computed for one well.

    Parameters
    ----------
    data
        JSON value.
    files
        Picture bytes by file name, or the path of a file that exists already.
    """

    data: dict[str, Any]
    files: dict[str, bytes | Path]


def save_checkpoint(folder: Path, *, key: str, payload: WellPayload) -> WellPayload:
    """Store a well's payload in one step; return it as `load_checkpoint` would.

    The value takes its way through JSON, so that a step cannot tell a fresh well from a resumed one: tuples are lists
    and keys are sorted in both.
    """
    make_folder(folder.parent)
    temporary = temporary_beside(folder)
    temporary.mkdir()
    try:
        hashes = {}
        for name, content in sorted(payload.files.items()):
            data = content if isinstance(content, bytes) else content.read_bytes()
            (temporary / name).parent.mkdir(parents=True, exist_ok=True)
            with (temporary / name).open("xb") as handle:
                handle.write(data)
            hashes[name] = hash_bytes(data)
        stored = _Stored(key=key, data=payload.data, files=hashes)
        document = canonical_json(stored.model_dump())
        write_file(temporary / _DOCUMENT, document)
        sync_tree(temporary)
        replace_folder(folder, temporary=temporary)
    except BaseException:
        remove_folder(temporary)
        raise
    return WellPayload(_Stored.model_validate_json(document).data, {name: folder / name for name in hashes})


def load_checkpoint(folder: Path, *, key: str) -> WellPayload | None:
    """Load a well's payload if it answers the key and is whole; None otherwise."""
    try:
        stored = _Stored.model_validate_json((folder / _DOCUMENT).read_bytes())
    except (FileNotFoundError, ValidationError):
        return None
    if stored.key != key:
        return None
    files: dict[str, bytes | Path] = {}
    for name, sha256 in stored.files.items():
        path = folder / name
        if not path.is_file() or hash_file(path) != sha256:
            return None
        files[name] = path
    return WellPayload(stored.data, files)


def clear_checkpoints(folder: Path) -> None:
    """Remove the checkpoints of a step that has been published."""
    remove_folder(folder)
