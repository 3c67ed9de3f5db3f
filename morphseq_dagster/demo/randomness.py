"""Named random streams of the demo plate.

Holds the one function that turns a seed and a name into a random generator, so that what is drawn for one
well never depends on how much was drawn for another. Does not hold any drawing.
"""

from __future__ import annotations

import hashlib

import numpy as np


def open_stream(seed: int, *, name: str) -> np.random.Generator:
    """Open the random stream of `name` under `seed`.

    Parameters
    ----------
    seed
        Seed of the whole plate.
    name
        What is drawn, for example `A01/debris`; equal names give equal numbers.
    """
    digest = hashlib.blake2b(f"{seed}/{name}".encode(), digest_size=16).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest, "little")))
