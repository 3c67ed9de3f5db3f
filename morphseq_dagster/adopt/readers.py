"""Readers: which conversion turns a source into which artifact, and whether the result agrees with what it builds on.

The conversions themselves are in the module of each form, such as `detections.py`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from morphseq_dagster.adopt.context import Context, Converted
from morphseq_dagster.adopt.conventions import Source
from morphseq_dagster.adopt.cross_checks import check_snips
from morphseq_dagster.adopt.detections import convert_detections
from morphseq_dagster.adopt.metadata import convert_metadata
from morphseq_dagster.adopt.pictures import convert_masks, convert_organized, convert_stitched
from morphseq_dagster.adopt.segmentations import convert_segmentations
from morphseq_dagster.adopt.splitting import read_piece
from morphseq_dagster.adopt.tables import convert_table
from morphseq_dagster.backends import BackendIdentity
from morphseq_dagster.engine.storage.hashing import hash_file
from morphseq_dagster.engine.tables.check import load_contract
from morphseq_dagster.engine.tables.document import encode_document
from morphseq_dagster.engine.tables.table import TableContract
from morphseq_dagster.errors import ContractError, PermanentError
from morphseq_dagster.morphseq.contracts.organized_frames import OrganizedFrames
from morphseq_dagster.morphseq.paths import MICROSCOPES, raw_folder

_ADOPTED = "adopted"


def convert(context: Context, *, step: str, source: Source, sha256: str = "") -> Converted:
    """Convert one source to one artifact and check it against what it builds on.

    Parameters
    ----------
    context
        The experiment and what is there of it already.
    step
        Artifact wanted.
    source
        File, folder, or piece of a file of all experiments.
    sha256
        Hash of the source where it is known already.

    Raises
    ------
    MorphseqError
        Whatever keeps the source from becoming the artifact, all reasons at once.
    """
    pictures = {
        "ff_images": convert_stitched,
        "organized_frames": convert_organized,
        "exported_masks": convert_masks,
    }
    if step in pictures:
        return pictures[step](context, source)
    digest = sha256 or hash_file(source.path)
    if isinstance(load_contract(context.layout.artifact(step)), TableContract):
        return _convert_table(context, step=step, source=source, sha256=digest)
    return _convert_document(context, step=step, source=source, sha256=digest)


def _convert_document(context: Context, *, step: str, source: Source, sha256: str) -> Converted:
    value, where = _read_json(context, source), str(source.path)
    frames = context.need("organized_frames", OrganizedFrames)
    experiment = context.experiment
    backend: BackendIdentity | None = None
    if step in ("gdino_raw", "gdino_detections"):
        raw, filtered, warnings, name = convert_detections(value, experiment=experiment, frames=frames, where=where)
        backend = BackendIdentity(name=name, version=_ADOPTED)
        if step == "gdino_detections" and filtered is None:
            raise _lacks("filtered detections (high_quality_annotations)", where=where)
        document: Any = raw if step == "gdino_raw" else filtered
        counts = {"images": len(raw.images)}
    elif step in ("sam2_tracks", "sam2_segmentations"):
        document, flagged, warnings = convert_segmentations(value, experiment=experiment, frames=frames, where=where)
        backend = BackendIdentity(name="SAM2", version=_ADOPTED)
        if step == "sam2_segmentations" and not flagged:
            raise _lacks("quality flags (flags.by_snip)", where=where)
        if step == "sam2_tracks":
            document = document.model_copy(update={"flags": {}})
        counts = {"masks": len(document.entity_tracker.entities.snips)}
    else:
        document, warnings = convert_metadata(value, experiment=experiment, frames=frames, where=where)
        counts = {"images": len(frames.images)}
    return Converted(
        data=encode_document(document),
        source=source.path,
        source_sha256=sha256,
        convention=source.convention,
        counts=counts,
        warnings=warnings,
        backend=backend,
    )


def _read_json(context: Context, source: Source) -> dict[str, Any]:
    if source.piece is not None:
        return read_piece(source.piece, experiment=context.experiment)
    try:
        value = json.loads(source.path.read_bytes())
    except ValueError as error:
        raise ContractError(
            expected="a JSON document", found=str(error), where=str(source.path), remedy="restore the file"
        ) from error
    if not isinstance(value, dict):
        raise ContractError(
            expected="a JSON object", found=type(value).__name__, where=str(source.path), remedy="restore the file"
        )
    return value


def _convert_table(context: Context, *, step: str, source: Source, sha256: str) -> Converted:
    contract = load_contract(context.layout.artifact(step))
    if not isinstance(contract, TableContract):
        raise TypeError(f"{step} is no table")
    path = source.path if source.piece is None else source.piece / f"{context.experiment}.csv"
    data, rows, warnings = convert_table(
        path,
        contract=contract,
        experiment=context.experiment,
        where=str(source.path),
        microscope=_microscope(context),
    )
    check_snips(context, step=step, data=data, where=str(source.path))
    return Converted(
        data=data,
        source=source.path,
        source_sha256=sha256,
        convention=source.convention,
        counts={"rows": rows},
        warnings=warnings,
    )


def _microscope(context: Context) -> str | None:
    folders = [m for m in MICROSCOPES if raw_folder(context.layout, m, experiment=context.experiment).is_dir()]
    return folders[0] if folders else None


def _lacks(what: str, *, where: str) -> PermanentError:
    return PermanentError(
        expected=what, found="none in the file", where=where, remedy="the pipeline makes them from what was adopted"
    )


def piece_exists(folder: Path, *, experiment: str) -> bool:
    """Whether a file of all experiments held anything of this one."""
    return (folder / f"{experiment}.jsonl").exists() or (folder / f"{experiment}.csv").exists()
