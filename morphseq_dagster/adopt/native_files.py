"""Native files: our own files without a record, checked whole with every picture, since nothing vouches for them."""

from __future__ import annotations

from pathlib import Path

from morphseq_dagster.adopt.context import Context, Converted
from morphseq_dagster.adopt.cross_checks import check_snips
from morphseq_dagster.adopt.tables import refuse_older_ids
from morphseq_dagster.engine.storage.file_lists import FileChange, compare_pictures, list_tree
from morphseq_dagster.engine.storage.hashing import hash_bytes
from morphseq_dagster.engine.tables.check import check_bytes
from morphseq_dagster.engine.tables.document import DocumentPart
from morphseq_dagster.engine.tables.image_set import ImageSetManifest
from morphseq_dagster.errors import ContractError
from morphseq_dagster.morphseq.contracts.raw_manifest import RawManifest
from morphseq_dagster.morphseq.paths import raw_folder

_LISTED = 10


def take_own(context: Context, *, step: str, primary: Path) -> Converted:
    """Check a file of ours.

    Raises
    ------
    ContractError
        When it breaks its contract, a picture is not what the manifest says, or the raw files have changed since.
    """
    data = primary.read_bytes()
    where = context.layout.relative(primary)
    artifact = context.layout.artifact(step)
    document = check_bytes(data, artifact=artifact, experiment=context.experiment, where=where)
    files: dict[Path, Path] = {}
    version = ""
    warnings: tuple[str, ...] = ()
    if isinstance(document, DocumentPart):
        document.check_content(where=where)
    if isinstance(document, ImageSetManifest):
        files = {context.layout.absolute(name): context.layout.absolute(name) for name in document.files}
        warnings = _check_pictures(context, step=step, manifest=document, primary=primary, where=where)
    if isinstance(document, RawManifest):
        version = document.version
        _check_raw(context, document, where=where)
    counts = {"files": len(files)} if files else {}
    if document is None:
        refuse_older_ids(data, experiment=context.experiment, where=where)
        check_snips(context, step=step, data=data, where=where)
        counts = {"rows": max(data.count(b"\n") - 1, 0)}
    return Converted(
        data=data,
        source=primary,
        source_sha256=hash_bytes(data),
        convention="own",
        files=files,
        data_version=version,
        counts=counts,
        warnings=warnings,
    )


def _check_pictures(
    context: Context, *, step: str, manifest: ImageSetManifest, primary: Path, where: str
) -> tuple[str, ...]:
    folders = context.layout.folders(step, experiment=context.experiment)
    changes = compare_pictures(context.layout, files=manifest.files, folders=folders, primary=primary)
    wrong = [f"{c.path} is {c.change.value}" for c in changes if c.change is not FileChange.ADDED]
    if wrong:
        raise ContractError(
            expected="pictures as the manifest says",
            found=f"{len(wrong)} problems: " + "; ".join(wrong[:_LISTED]),
            where=where,
            remedy="restore the pictures, or let the pipeline make them again",
        )
    added = len(changes)
    return (f"{added} files beside the pictures were put aside",) if added else ()


def _check_raw(context: Context, manifest: RawManifest, *, where: str) -> None:
    """The list of raw files is only as good as the raw folder is unchanged; making it again costs little."""
    folder = raw_folder(context.layout, manifest.microscope, experiment=context.experiment)
    found = {}
    if folder.is_dir():
        found = {p.relative_to(folder).as_posix(): (s.st_size, s.st_mtime_ns) for p, s in list_tree(folder)}
    if found != {file.path: (file.size, file.mtime_ns) for file in manifest.files}:
        raise ContractError(
            expected="a list of the raw files as they are now",
            found="other files, sizes or times",
            where=where,
            remedy="let the step look at the raw folder again",
        )
