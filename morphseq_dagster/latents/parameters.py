"""Names of the latent models.

Holds names only; the room `latents` and the slices import them from here.
"""

from __future__ import annotations

LAB_MODEL = "20241107_ds_sweep01_optimum"
"""The lab's trained encoder (spec, science 7); its weights are not public."""
DEFAULT_MODEL = "dct_100"
"""The embedder without weights."""
