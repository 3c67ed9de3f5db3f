"""What an embedder is, the embedders, one entry each, and the guard of their names.

What an entry is stands in `morphseq_dagster/backends.py`; the embedder without weights is `dct.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

from morphseq_dagster.backends import Backend, BackendIdentity, Backends
from morphseq_dagster.errors import PermanentError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

LAB_MODEL: Final = "20241107_ds_sweep01_optimum"
"""The lab's trained encoder (spec, science 7); its weights are not public."""


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


EMBEDDERS: Final[Backends[Embedder]] = Backends(
    "latents.model",
    Backend(
        "dct_100",
        "The 100 lowest frequencies of a snip's cosine transform; needs no weights.",
        loader="morphseq_dagster.latents.dct:make_dct_100",
    ),
    Backend(
        LAB_MODEL,
        "The lab's trained encoder.",
        weights="latents",
        needs=f"the weights of the lab's model {LAB_MODEL}, which are not public",
    ),
    other_weights="latents",
)


def check_output_name(name: str, *, identity: BackendIdentity) -> None:
    """Refuse to file numbers under the name of a model that did not make them.

    Raises
    ------
    PermanentError
        When the names differ, or when the lab's name is claimed without weights.
    """
    if name != identity.name or (name == LAB_MODEL and identity.weights_sha256 is None):
        raise PermanentError(
            expected=f"latents made by {name}" + (" with its weights" if name == LAB_MODEL else ""),
            found=f"latents made by {identity.name}, weights {identity.weights_sha256 or 'none'}",
            where=f"latents filed under {name}",
            remedy=f"file them under {identity.name}",
        )
