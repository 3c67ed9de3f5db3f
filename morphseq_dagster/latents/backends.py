"""Choice of the embedder by name; what cannot be loaded is an error, never replaced by something else.

Holds the names and the guard of the lab's name. Does not hold models.
"""

from __future__ import annotations

from morphseq_dagster.errors import PermanentError
from morphseq_dagster.latents.dct import DctEmbedder
from morphseq_dagster.latents.model import Embedder, EmbedderIdentity
from morphseq_dagster.latents.parameters import DEFAULT_MODEL, LAB_MODEL

AVAILABLE_MODELS = (DEFAULT_MODEL,)


def load_embedder(name: str = DEFAULT_MODEL) -> Embedder:
    """Make the embedder of that name.

    Raises
    ------
    PermanentError
        For the lab's model, whose weights are not there, and for names that nobody knows.
    """
    if name == DEFAULT_MODEL:
        return DctEmbedder(latent_dim=100)
    if name == LAB_MODEL:
        raise PermanentError(
            expected=f"the weights of the lab's model {LAB_MODEL}",
            found="no weights; they are not public, and no encoder that reads them is installed",
            where="recipe, latents.model",
            remedy=f'set latents.model = "{DEFAULT_MODEL}", or import latents that the lab has computed',
        )
    raise PermanentError(
        expected=f"one of {', '.join(AVAILABLE_MODELS)}",
        found=repr(name),
        where="recipe, latents.model",
        remedy=f'set latents.model = "{DEFAULT_MODEL}"',
    )


def check_output_name(name: str, *, identity: EmbedderIdentity) -> None:
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
