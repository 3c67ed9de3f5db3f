"""Ids and paths as older programs wrote them, turned into ours.

What cannot be read is refused by its name, never guessed.
"""

from __future__ import annotations

from pathlib import PurePosixPath, PureWindowsPath
from typing import Final

from morphseq_dagster.identifiers import (
    ImageId,
    mint_embryo,
    mint_image,
    mint_snip,
    parse_embryo,
    parse_image,
    parse_snip,
)

TOP_FOLDERS: Final = (
    "sam2_pipeline_files",
    "built_image_data",
    "raw_image_data",
    "training_data",
    "metadata",
    "analysis",
    "segmentation",
)
"""Folders directly below a data root, from which on an absolute path is ours."""


def translate_image(text: str) -> tuple[str, ImageId]:
    """Our image id and its parts; a missing channel becomes `ch00`, three digits of a frame become four.

    Raises
    ------
    PermanentError
        When the text is no image id.
    """
    parts = parse_image(text)
    return mint_image(parts.experiment_id, well=parts.well, frame=parts.frame, channel=parts.channel), parts


def translate_snip(text: str) -> str:
    """Our snip id from the forms `_tNNNN`, `_sNNNN` and `_NNNN`.

    Raises
    ------
    PermanentError
        When the text is no snip id.
    """
    parts = parse_snip(text)
    return mint_snip(mint_embryo(parts.experiment_id, well=parts.well, number=parts.embryo), frame=parts.frame)


def translate_embryo(text: str) -> str:
    """Our embryo id.

    Raises
    ------
    PermanentError
        When the text is no embryo id.
    """
    experiment, well, number = parse_embryo(text)
    return mint_embryo(experiment, well=well, number=number)


def translate_mask_name(text: str) -> str:
    """Our file name of a label picture from `{image_id}_masks_emnum_{N}.png`, any folders before it dropped.

    Raises
    ------
    PermanentError
        When the part before `_masks_` is no image id.
    """
    name = PurePosixPath(PureWindowsPath(text).as_posix()).name
    image, mark, rest = name.partition("_masks_")
    return translate_image(image)[0] + mark + rest


def relative_path(text: str) -> str:
    """Path from the data root on, of a path that was absolute on some machine; the bare name where none is ours."""
    parts = PureWindowsPath(text).parts if "\\" in text else PurePosixPath(text).parts
    for number, part in enumerate(parts):
        if part in TOP_FOLDERS:
            return "/".join(parts[number:])
    return parts[-1] if parts else ""
