"""Manifests of grey pictures: what an edited picture must be to be kept.

The manifests of frames, snips and masks are built on this one.
"""

from __future__ import annotations

from morphseq_dagster.engine.tables.image_set import ImageSetManifest
from morphseq_dagster.errors import ContractError, MorphseqError


class GreyPictures(ImageSetManifest):
    """Manifest of grey pictures, some of which have a shape that is promised."""

    def shape_of(self, path: str) -> tuple[int, int] | None:
        """Height and width in pixels that the manifest promises for a picture; None when it promises none."""
        del path
        return None

    def check_picture(self, path: str, *, data: bytes) -> None:
        """Decode a picture to one grey channel and compare its size.

        Raises
        ------
        ContractError
            When it cannot be decoded to that, or has another shape.
        """
        from morphseq_dagster.imaging.pictures import decode_grey

        shape = self.shape_of(path)
        try:
            found = decode_grey(data, where=path).pixels.shape
            problem = f"{found[0]} x {found[1]} px" if shape is not None and found != shape else ""
        except MorphseqError as error:
            problem = error.found
        if problem:
            raise ContractError(
                expected="a grey picture" + (f" of {shape[0]} x {shape[1]} px" if shape is not None else ""),
                found=problem,
                where=path,
                remedy="restore the picture, or discard the edit so that it is made again",
            )
