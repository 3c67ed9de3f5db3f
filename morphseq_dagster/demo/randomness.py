"""Named random streams of the demo plate: what is drawn for one well never depends on another well."""

from __future__ import annotations

import hashlib

import numpy as np


def open_stream(seed: int, *, name: str) -> np.random.Generator:
    """Open the random stream of what is drawn, for example `A01/debris`; equal names give equal numbers."""
    digest = hashlib.blake2b(f"{seed}/{name}".encode(), digest_size=16).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest, "little")))
