"""Catalogue of contracts: which table or document model belongs to an artifact, and the check of a file's bytes.

Holds the look-up only. Modules are imported when they are asked for, since tables bring pandas with them.
"""

from __future__ import annotations

import csv
import importlib
import io
from collections.abc import Callable
from typing import Final

from pydantic import BaseModel

from morphseq_dagster.engine.tables.document import parse_document
from morphseq_dagster.engine.tables.table import TableContract
from morphseq_dagster.errors import ContractError

Contract = TableContract | type[BaseModel]
ContractFinder = Callable[[str], Contract | None]

_MODELS: Final = {
    "raw_manifest": "raw_manifest:RawManifest",
    "ff_images": "ff_images:FfImages",
    "organized_frames": "organized_frames:OrganizedFrames",
    "experiment_metadata": "experiment_metadata:ExperimentMetadata",
    "gdino_raw": "detections:DetectionDocument",
    "gdino_detections": "detections:DetectionDocument",
    "sam2_tracks": "segmentations:SegmentationDocument",
    "sam2_segmentations": "segmentations:SegmentationDocument",
    "exported_masks": "exported_masks:ExportedMasks",
    "qc_masks": "qc_masks:QcMasks",
    "snips": "snips:Snips",
}
_TABLES: Final = frozenset(
    {
        "plate_metadata",
        "built_metadata",
        "sam2_metadata",
        "embryo_metadata",
        "qc_staged",
        "latents",
        "embryo_latents_final",
        "cohort_final",
    }
)
_ID_COLUMNS: Final = ("experiment_id", "experiment_date")


def find_contract(artifact: str) -> Contract | None:
    """Find the contract of an artifact; None for artifacts of other registries."""
    name = _MODELS.get(artifact) or (f"{artifact}:CONTRACT" if artifact in _TABLES else None)
    if name is None:
        return None
    module, _, attribute = name.partition(":")
    found: Contract = getattr(importlib.import_module(f"morphseq_dagster.morphseq.contracts.{module}"), attribute)
    return found


def check_bytes(
    data: bytes, *, artifact: str, experiment: str, where: str, find: ContractFinder = find_contract
) -> BaseModel | None:
    """Check a primary file against its contract and that it speaks of this experiment alone.

    Parameters
    ----------
    data, where
        Content and the name for messages.
    artifact, experiment
        What it must be.
    find
        Looks contracts up.

    Returns
    -------
    BaseModel or None
        The document; None for a table.

    Raises
    ------
    ContractError
        Naming every violation, a file of an artifact without a contract included.
    """
    contract = find(artifact)
    if contract is None:
        raise ContractError(
            expected=f"an artifact with a contract, so that {artifact} can be checked",
            found="no contract",
            where=where,
            remedy="make the artifact again instead",
        )
    if isinstance(contract, TableContract):
        contract.decode(data, where=where)
        _refuse_others(_experiments_of_table(data), experiment=experiment, where=where)
        return None
    document = parse_document(contract, data, where=where)
    _refuse_others(_experiments_of_document(document), experiment=experiment, where=where)
    return document


def _experiments_of_table(data: bytes) -> set[str]:
    rows = csv.DictReader(io.StringIO(data.decode(), newline=""))
    columns = [name for name in _ID_COLUMNS if name in (rows.fieldnames or ())]
    return {row[name] for row in rows for name in columns if row[name]} if columns else set()


def _experiments_of_document(document: BaseModel) -> set[str]:
    found = {text for text in (getattr(document, "experiment_id", None),) if isinstance(text, str)}
    experiments = getattr(document, "experiments", None)
    tracker = getattr(document, "entity_tracker", None)
    found |= set(experiments) if isinstance(experiments, dict) else set()
    found |= set(tracker.entities.experiments) if tracker is not None else set()
    return found


def _refuse_others(found: set[str], *, experiment: str, where: str) -> None:
    others = sorted(found - {experiment})
    if others and experiment != "cohort":
        raise ContractError(
            expected=f"experiment {experiment} and no other",
            found=f"{', '.join(others[:5])}{' ...' if len(others) > 5 else ''}",
            where=where,
            remedy="put the file where its own experiment's belongs",
        )
