"""Manifest of an image set: the pictures of a folder unit with their hashes.

What a set adds to this stands in its workflow's contracts.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict

from morphseq_dagster.engine.tables.document import parse_document


class FileEntry(BaseModel):
    """One published picture: content hash and size in bytes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sha256: str
    size: int


class ImageSetManifest(BaseModel):
    """Manifest of one image set; `files` maps paths relative to the data root to their entries."""

    model_config = ConfigDict(frozen=True, extra="allow")

    schema_version: int = 1
    experiment_id: str
    files: dict[str, FileEntry]

    def check_picture(self, path: str, *, data: bytes) -> None:
        """Check a picture that a person has edited, as far as the manifest promises something of it.

        Raises
        ------
        ContractError
            When it is not what the manifest promises.
        """
        del path, data


def read_file_entries(manifest: Path) -> dict[str, FileEntry]:
    """Read which pictures a manifest lists.

    Raises
    ------
    ContractError
        When the manifest is no manifest.
    """
    return parse_document(ImageSetManifest, manifest.read_bytes(), where=str(manifest)).files
