"""Hashes of weights files: read once per appearance, since such a file may have gigabytes.

The hashes are cached in `.morphseq/weights.json`: an entry holds as long as size, time and inode of every file are as
they were, and a cache that is lost costs one reading.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from morphseq_dagster.engine.layout import Layout
from morphseq_dagster.engine.storage.atomic_io import write_durably
from morphseq_dagster.engine.storage.file_lists import digest_listing, list_names
from morphseq_dagster.engine.storage.hashing import hash_bytes, hash_file, hash_json

SCHEMA: Final = 1


def hash_weights(path: Path) -> str:
    """Hash the content of a weights file, or of every file of a folder with its name; reads all of it.

    Raises
    ------
    OSError
        When a file cannot be read.
    """
    if not path.is_dir():
        return hash_file(path)
    return hash_json([[name, hash_file(path / name)] for name in sorted(name for name, _ in list_names(path))])


def recall_hash(layout: Layout, path: Path) -> str | None:
    """Hash of weights as the cache knows it; None when they look otherwise than when they were read."""
    known = _read(layout).get(str(path))
    return known[1] if known is not None and known[0] == fingerprint(path) else None


def remember_hash(layout: Layout, path: Path) -> str:
    """Hash weights unless the cache knows them, and keep the hash for the next call.

    Raises
    ------
    OSError
        When a file cannot be read, or the cache cannot be written.
    """
    recalled = recall_hash(layout, path)
    if recalled is not None:
        return recalled
    # The appearance first: weights that are replaced while they are read look otherwise next time.
    seen = fingerprint(path)
    digest = hash_weights(path)
    entries = _read(layout) | {str(path): (seen, digest)}
    value = {"schema": SCHEMA, "weights": {name: list(entry) for name, entry in sorted(entries.items())}}
    write_durably(layout.weights_hashes, (json.dumps(value, indent=1) + "\n").encode())
    return digest


def fingerprint(path: Path) -> str:
    """Digest of size, time and inode of a weights file, or of every file of a folder."""
    if path.is_dir():
        return digest_listing((path,))
    status = path.stat()
    return hash_bytes(f"{status.st_size}.{status.st_mtime_ns}.{status.st_ino}".encode())


def measure(path: Path) -> int:
    """Bytes that hashing the weights would read."""
    return sum(s.st_size for _, s in list_names(path)) if path.is_dir() else path.stat().st_size


def _read(layout: Layout) -> dict[str, tuple[str, str]]:
    """Read the cache; one that cannot be understood counts as empty, since everything in it can be read again."""
    try:
        value: Any = json.loads(layout.weights_hashes.read_bytes())
        if value["schema"] != SCHEMA:
            return {}
        return {str(name): (str(seen), str(digest)) for name, (seen, digest) in value["weights"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}
