"""The embedders, one entry each, and the guard of their names; `backends.py` of the package says what an entry is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from morphseq_dagster.backends import Backend, BackendIdentity, Backends
from morphseq_dagster.errors import PermanentError

if TYPE_CHECKING:
    from morphseq_dagster.latents.model import Embedder

LAB_MODEL: Final = "20241107_ds_sweep01_optimum"
"""The lab's trained encoder (spec, science 7); its weights are not public."""

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

    Parameters
    ----------
    name
        Model name of the output.
    identity
        What made the numbers.

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
