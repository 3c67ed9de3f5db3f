"""`dct_100`: the 100 lowest-frequency coefficients of a snip's two-dimensional cosine transform, without weights.

There is no split into nuisance and biological dimensions as in the lab's model and no spread, so columns are called
`z_mu_00` to `z_mu_99` and `z_sigma_*` do not exist.

Coefficients are ordered by physical frequency. Entry (u, v) of an orthonormal DCT-II of H x W pixels oscillates with
u/(2H) and v/(2W) cycles per pixel, and snips have square pixels, so (u/H)^2 + (v/W)^2 ranks entries by cycles per
micrometre in any direction. A zig-zag by u + v would let a snip that is 2.25 times as high as wide keep 2.25 times
finer detail across than along the body. Ranks are compared as whole numbers, u^2 W^2 + v^2 H^2; equal ones are ordered
by u, then v.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.fft import dctn

from morphseq_dagster.backends import BackendIdentity
from morphseq_dagster.errors import PermanentError
from morphseq_dagster.parameters import Parameters

SNIP_SHAPE = (576, 256)


def lowest_frequencies(count: int, *, shape: tuple[int, int]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Rows and columns, each (count,), of the lowest frequencies of a transform of `shape` `(H, W)`, lowest first.

    The first is (0, 0), the mean grey.
    """
    height, width = shape
    if not 1 <= count <= height * width:
        raise PermanentError(
            expected=f"1 to {height * width} coefficients",
            found=str(count),
            where="cosine embedder",
            remedy="ask for fewer coefficients",
        )
    u, v = np.meshgrid(np.arange(height), np.arange(width), indexing="ij")
    rank = (u * width) ** 2 + (v * height) ** 2
    # The flattened order is u, then v, and the sort is stable: that settles ties.
    first = np.argsort(rank.ravel(), kind="stable")[:count]
    rows, cols = np.unravel_index(first, shape)
    return rows, cols


class DctEmbedder:
    """Cosine embedder of aligned snips; its name is `dct_{latent_dim}`."""

    def __init__(self, *, latent_dim: int = 100) -> None:
        self._dim = latent_dim
        self._rows, self._cols = lowest_frequencies(latent_dim, shape=SNIP_SHAPE)

    @property
    def latent_dim(self) -> int:
        """Number of coefficients."""
        return self._dim

    @property
    def column_names(self) -> tuple[str, ...]:
        """`z_mu_00`, `z_mu_01`, ... in the order of frequency."""
        digits = max(2, len(str(self._dim - 1)))
        return tuple(f"z_mu_{i:0{digits}d}" for i in range(self._dim))

    def embed(self, snips: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Transform snips.

        Parameters
        ----------
        snips
            `(N, 576, 256)` uint8, N may be 0; read as grey in [0, 1].

        Returns
        -------
        ndarray
            `(N, latent_dim)` float32 orthonormal DCT-II coefficients; entry 0 is 384 times the mean grey.

        Raises
        ------
        PermanentError
            For another shape or dtype.
        """
        if snips.ndim != 3 or snips.shape[1:] != SNIP_SHAPE or snips.dtype != np.uint8:
            raise PermanentError(
                expected=f"snips of shape (N, {SNIP_SHAPE[0]}, {SNIP_SHAPE[1]}) and dtype uint8",
                found=f"shape {snips.shape}, dtype {snips.dtype}",
                where=f"embedder dct_{self._dim}",
                remedy="make snips with the default rows and cols, or choose an embedder for this size",
            )
        out = np.empty((snips.shape[0], self._dim), dtype=np.float32)
        # One snip at a time: bounded memory, and no number depends on the batch.
        for i, snip in enumerate(snips):
            spectrum = dctn(snip.astype(np.float64) / 255.0, type=2, norm="ortho")
            out[i] = spectrum[self._rows, self._cols]
        return out

    def identity(self) -> BackendIdentity:
        """Name and version; there are no weights."""
        return BackendIdentity(name=f"dct_{self._dim}", version="1")


def make_dct_100(parameters: Parameters) -> DctEmbedder:
    """Make the default embedder; it has no parameters beside its name."""
    del parameters
    return DctEmbedder(latent_dim=100)
