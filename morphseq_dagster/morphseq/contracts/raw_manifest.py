"""Raw manifest: every file of an acquisition with size and hashes, and the version that these add up to."""

from __future__ import annotations

from pydantic import Field

from morphseq_dagster.engine.tables.document import DocumentPart


class RawFile(DocumentPart):
    """One raw file.

    `ends_sha256` hashes the first and last 64 KiB; `whole_sha256` the whole file, given only where the file was found
    changed in between. The time says where to look again and is no part of the version.
    """

    path: str
    size: int = Field(ge=0)
    ends_sha256: str
    whole_sha256: str | None = None
    mtime_ns: int


class RawManifest(DocumentPart):
    """Files of one acquisition in order of their paths, relative to its raw folder."""

    schema_version: int = 1
    experiment_id: str
    microscope: str
    version: str
    total_bytes: int
    files: tuple[RawFile, ...]

    def stated_version(self) -> str:
        """Version by the files' content alone: times say only where to look again."""
        return self.version
