"""Check of a file's bytes against the contract of its artifact, and that it speaks of its own key alone.

The contract is a table contract (`table.py`) or a document model (`document.py`). It is imported when it is asked for,
since tables bring pandas with them.
"""

from __future__ import annotations

import csv
import importlib
import io
from typing import Final

from pydantic import BaseModel

from morphseq_dagster.engine.layout import COHORT, Artifact
from morphseq_dagster.engine.tables.document import parse_document
from morphseq_dagster.engine.tables.table import TableContract
from morphseq_dagster.errors import ContractError

_ID_COLUMNS: Final = ("experiment_id", "experiment_date")


def load_contract(artifact: Artifact) -> TableContract | type[BaseModel]:
    """Import the contract of an artifact."""
    module, _, attribute = artifact.contract.partition(":")
    found: TableContract | type[BaseModel] = getattr(importlib.import_module(module), attribute)
    return found


def check_bytes(data: bytes, *, artifact: Artifact, experiment: str, where: str) -> BaseModel | None:
    """Check a primary file against its contract and that it speaks of this experiment alone.

    Parameters
    ----------
    data, where
        Content and the name for messages.
    artifact, experiment
        What it must be.

    Returns
    -------
    BaseModel or None
        The document; None for a table.

    Raises
    ------
    ContractError
        Naming every violation.
    """
    contract = load_contract(artifact)
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
    if others and experiment != COHORT:
        raise ContractError(
            expected=f"experiment {experiment} and no other",
            found=f"{', '.join(others[:5])}{' ...' if len(others) > 5 else ''}",
            where=where,
            remedy="put the file where its own experiment's belongs",
        )
