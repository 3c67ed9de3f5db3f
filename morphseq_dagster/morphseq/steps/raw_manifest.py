"""Step `raw_manifest`: list every raw file with size and hashes; terabytes are read once, by the step that needs them.

Times only show where to look again. A file whose time or size changed is hashed whole and compared with the hash that
`ff_images` took while reading; if it differs, the whole hash enters its line.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from morphseq_dagster.engine.contract.context import Account, StepContext
from morphseq_dagster.engine.contract.progress import Progress
from morphseq_dagster.engine.contract.step import StepResult
from morphseq_dagster.engine.storage.file_lists import list_tree
from morphseq_dagster.engine.storage.hashing import hash_file, hash_json
from morphseq_dagster.engine.tables.document import parse_document
from morphseq_dagster.errors import PermanentError
from morphseq_dagster.morphseq.contracts.ff_images import FfImages
from morphseq_dagster.morphseq.contracts.raw_manifest import RawFile, RawManifest
from morphseq_dagster.morphseq.inputs import find_raw_folder, is_raw_file
from morphseq_dagster.morphseq.paths import raw_root

_END_BYTES = 64 * 1024


def run(context: StepContext) -> StepResult:
    """List the raw files of an experiment."""
    folder = find_raw_folder(context.layout, context.experiment)
    if folder is None or not folder.is_dir():
        raise PermanentError(
            expected="a raw folder below one microscope",
            found="none",
            where=str(raw_root(context.layout)),
            remedy="bring the acquisition there; `morphseq experiments` lists what is found",
        )
    before = _earlier_files(context)
    seen = _hashes_as_read(context)
    found = {path.relative_to(folder).as_posix(): path for path, _ in list_tree(folder)}
    paths = [found[name] for name in sorted(found) if is_raw_file(name)]
    files = []
    for number, path in enumerate(paths):
        name = path.relative_to(folder).as_posix()
        files.append(_describe(path, name=name, before=before.get(name), as_read=seen.get(name)))
        context.progress(Progress(context.request.step, number + 1, len(paths), name))
    microscope = folder.parent.name
    lines = [[file.path, file.size, file.ends_sha256, file.whole_sha256] for file in files]
    version = hash_json({"microscope": microscope, "files": lines})
    manifest = RawManifest(
        experiment_id=context.experiment,
        microscope=microscope,
        version=version,
        total_bytes=sum(file.size for file in files),
        files=tuple(files),
    )
    counts = {"raw_files": len(files), "raw_bytes": manifest.total_bytes}
    return context.stage_document(manifest, account=Account(counts=counts))


def _describe(path: Path, *, name: str, before: RawFile | None, as_read: str | None) -> RawFile:
    """Describe one file; it is read only where its size or time changed since the last manifest."""
    status = path.stat()
    if before is not None and (status.st_size, status.st_mtime_ns) == (before.size, before.mtime_ns):
        return before
    ends = _hash_ends(path, size=status.st_size)
    whole = None
    if as_read is not None:
        content = hash_file(path)
        whole = content if content != as_read else _keep_whole(before, content=content)
    return RawFile(path=name, size=status.st_size, ends_sha256=ends, whole_sha256=whole, mtime_ns=status.st_mtime_ns)


def _keep_whole(before: RawFile | None, *, content: str) -> str | None:
    """Keep a whole hash that the line carries already: dropping it would change the version for the same bytes."""
    return content if before is not None and before.whole_sha256 == content else None


def _hash_ends(path: Path, *, size: int) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as handle:
        digest.update(handle.read(_END_BYTES))
        if size > _END_BYTES:
            handle.seek(max(_END_BYTES, size - _END_BYTES))
            digest.update(handle.read(_END_BYTES))
    return digest.hexdigest()


def _earlier_files(context: StepContext) -> dict[str, RawFile]:
    """Files of the published manifest, which tell where to look again."""
    data = None if context.request.force else context.published()
    if data is None:
        return {}
    manifest = parse_document(RawManifest, data, where=context.request.output)
    return {file.path: file for file in manifest.files}


def _hashes_as_read(context: StepContext) -> dict[str, str]:
    """Hashes that `ff_images` took while reading; empty before its first run."""
    path = context.layout.primary("ff_images", experiment=context.experiment)
    data = context.published(path)
    if data is None:
        return {}
    images = parse_document(FfImages, data, where=str(path))
    return images.also_read | {name: sha256 for frame in images.frames for name, sha256 in frame.sources.items()}
