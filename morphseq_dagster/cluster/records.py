"""Records of an attempt: small JSON files, written whole and read with care.

Holds reading and writing. What is half, empty or no JSON counts as not there: the writer may be a node with a full
disk.
"""

from __future__ import annotations

import json
import os
import secrets
from pathlib import Path
from typing import Any


def write_whole(path: Path, data: bytes, *, sync_entry: bool = True, flush: bool = True) -> None:
    """Replace a file's content in one step that survives a crash.

    Without `sync_entry` the name survives only once the folder is flushed: for files before another one of the folder.
    Without `flush` it survives the death of every process, but not that of the machine.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    try:
        with temporary.open("xb") as handle:
            handle.write(data)
            handle.flush()
            if flush:
                os.fsync(handle.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if sync_entry and flush:
        sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_record(path: Path, values: dict[str, Any], *, flush: bool = True) -> None:
    """Write a record."""
    write_whole(path, (json.dumps(values, indent=1, sort_keys=True) + "\n").encode(), flush=flush)


def read_record(path: Path) -> dict[str, Any] | None:
    """Read a record; None when there is none that can be understood."""
    try:
        found = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    return found if isinstance(found, dict) else None
