"""What an embedder is: snips in, one vector per snip out, with an identity that outputs can carry.

The models are entered in `backends.py`; the one without weights is `dct.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

<<<<<<< HEAD
from morphseq_dagster.backends import BackendIdentity
=======

@dataclass(frozen=True)
class EmbedderIdentity:
    """What made a set of latents; equal identities and equal snips give equal numbers.

    Attributes
    ----------
    name
        Model name, under which its outputs are filed.
    version
        Version of the algorithm; raised when numbers change.
    weights_sha256
        Hash of the weights file; None for a model without weights.
    """

    name: str
    version: str
    weights_sha256: str | None
>>>>>>> 9ea95de1b4d4e5726cf5e491623e77ccb29f70cb


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
