"""Hashes of bytes, of files, and of JSON values in one canonical form."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

_BLOCK = 1 << 20
_CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def hash_bytes(data: bytes) -> str:
    """SHA-256 of bytes, 64 hexadecimal characters."""
    return hashlib.sha256(data).hexdigest()


def hash_file(path: Path) -> str:
    """SHA-256 of a file's content, read once in blocks of 1 MiB."""
    digest = hashlib.sha256()
    with path.open("rb") as handle:
        while block := handle.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def canonical_json(value: Any) -> bytes:  # noqa: ANN401 - any JSON value
    """Serialise to JSON with sorted keys and no spaces: equal values give equal bytes.

    Raises
    ------
    ValueError
        For NaN and infinities, which JSON lacks: they would break other readers.
    """
    return _CANONICAL.encode(value).encode()


def hash_json(value: Any) -> str:  # noqa: ANN401 - any JSON value
    """SHA-256 of the canonical JSON form."""
    return hash_bytes(canonical_json(value))
