"""Cross-checks: whether an adopted table names the very snips that the artifacts before it hold.

Documents are compared with the frames while they are converted.
"""

from __future__ import annotations

import csv
import io

from morphseq_dagster.adopt.context import Context
from morphseq_dagster.errors import ContractError
from morphseq_dagster.morphseq.contracts.segmentations import SegmentationDocument
from morphseq_dagster.morphseq.contracts.snips import Snips


def check_snips(context: Context, *, step: str, data: bytes, where: str) -> None:
    """Compare the snips of a table with those that it must be of.

    Raises
    ------
    ContractError
        Naming snips too many and too few.
    """
    found = {row["snip_id"] for row in csv.DictReader(io.StringIO(data.decode(), newline="")) if "snip_id" in row}
    expected: set[str] | None = None
    if step == "latents":
        snips = context.document("snips", Snips)
        expected = set(snips.snips) if snips is not None else None
    elif step == "sam2_metadata":
        document = context.document("sam2_segmentations", SegmentationDocument)
        document = document or context.document("sam2_tracks", SegmentationDocument)
        expected = set(document.entity_tracker.entities.snips) if document is not None else None
    if expected is None or found == expected:
        return
    unknown, missing = sorted(found - expected), sorted(expected - found)
    problems = [f"{len(unknown)} snips are unknown, the first {unknown[0]}"] if unknown else []
    problems += [f"{len(missing)} snips are missing, the first {missing[0]}"] if missing else []
    raise ContractError(
        expected="one row per snip of the experiment",
        found="; ".join(problems),
        where=where,
        remedy="let the pipeline make the table from the snips and masks that are there",
    )
