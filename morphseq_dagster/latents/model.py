"""What an embedder is: snips in, one vector per snip out, with an identity that outputs can carry.

The models are entered in `backends.py`; the one without weights is `dct.py`.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from morphseq_dagster.backends import BackendIdentity


class Embedder(Protocol):
    """A model that turns snips into vectors."""

    @property
    def latent_dim(self) -> int:
        """Length of a vector."""
        ...

    @property
    def column_names(self) -> tuple[str, ...]:
        """Names of the vector's entries, in order."""
        ...

    def embed(self, snips: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Turn snips `(N, rows, cols)` uint8 into `(N, latent_dim)` float32, each independent of its batch."""
        ...

    def identity(self) -> BackendIdentity:
        """What made the numbers."""
        ...
