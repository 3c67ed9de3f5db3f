"""Materialisations as people see them: rows, columns, path, seconds, wells, a preview; failures with their remedy.

Records and staged results are translated to Dagster's metadata and tags here. The tags by which Dagster knows what an
event was made from are in `provenance.py`.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import dagster as dg

from morphseq_dagster.engine.contract.step import StepRequest
from morphseq_dagster.engine.executors.protocol import Committed, Executed
from morphseq_dagster.engine.layout import COHORT, Layout
from morphseq_dagster.engine.storage.hashing import hash_json
from morphseq_dagster.engine.storage.records import InputRead, Record, WellState
from morphseq_dagster.engine.storage.staging import Staged
from morphseq_dagster.engine.tables.check import load_contract
from morphseq_dagster.engine.tables.table import TableContract
from morphseq_dagster.engine.workspace import Workspace
from morphseq_dagster.errors import MorphseqError, TransientError, name_some

MEMO_TAG = "morphseq/memo"
_TAG_LENGTH = 32
"""Characters of a hash in a tag: Dagster refuses values longer than 63, so a whole SHA-256 does not fit."""
_PREVIEW_LIMIT = 200_000
"""Largest preview in bytes that goes into the event log, which every reader of events pages through."""


def output_tags(request: StepRequest) -> dict[str, str]:
    """Tags of a materialisation: recipe and the hashes actually read."""
    return _tags(request.recipe_hash, inputs=request.inputs, experiment=request.experiment)


def describe_hit(record: Record, *, workspace: Workspace) -> dg.MaterializeResult[Any]:
    """Describe an artifact that stands as it is: same version, nothing computed, nothing handed to the IO manager."""
    tags = {MEMO_TAG: "hit", **_tags(record.recipe_hash, inputs=record.inputs, experiment=record.experiment)}
    metadata = {"nothing changed": True, **_of_record(record, layout=workspace.layout)}
    return dg.MaterializeResult(data_version=dg.DataVersion(record.data_version), tags=tags, metadata=metadata)


def describe_result(
    outcome: Executed | Committed, *, workspace: Workspace, tags: dict[str, str]
) -> dg.MaterializeResult[Any]:
    """Describe what a step made, here or elsewhere."""
    layout = workspace.layout
    if isinstance(outcome, Committed):
        version, metadata = outcome.record.data_version, _of_record(outcome.record, layout=layout)
        metadata |= _of_job(outcome.facts)
    else:
        staged, version = outcome.staged, outcome.staged.data_version
        metadata = _describe(staged, path=staged.primary, step=outcome.request.step, layout=layout)
        metadata |= {"seconds": outcome.seconds, "cpu_seconds": outcome.cpu_seconds, "place": outcome.place}
        metadata |= _preview(staged.preview)
    return dg.MaterializeResult(value=outcome, data_version=dg.DataVersion(version), tags=tags, metadata=metadata)


def describe_record(record: Record, *, workspace: Workspace) -> dict[str, Any]:
    """Metadata of an artifact that no run has made: the same as after a run, and where it came from."""
    metadata = {**_of_record(record, layout=workspace.layout), "origin": record.origin, "made": record.finished_at}
    if record.adopted_from is not None:
        metadata["adopted from"] = record.adopted_from.path
    return metadata


def failure_of(error: MorphseqError) -> dg.Failure:
    """Show an error as Dagster's failure with its parts; only transient ones may be retried."""
    parts = {"expected": error.expected, "found": error.found, "where": error.where, "remedy": error.remedy}
    return dg.Failure(
        description=str(error),
        metadata={name: dg.MetadataValue.text(text) for name, text in parts.items()},
        allow_retries=isinstance(error, TransientError),
    )


def _tags(recipe_hash: str, *, inputs: Sequence[InputRead], experiment: str) -> dict[str, str]:
    """Tags of recipe and inputs; the cohort's inputs are named by keys, which may be no names of tags."""
    tags = {"morphseq/recipe": recipe_hash[:_TAG_LENGTH]}
    if experiment == COHORT:
        return tags | {"morphseq/members": hash_json([[e.name, e.sha256] for e in inputs])[:_TAG_LENGTH]}
    return tags | {f"morphseq/in.{e.name}": (e.sha256 or "absent")[:_TAG_LENGTH] for e in inputs}


def _of_record(record: Record, *, layout: Layout) -> dict[str, Any]:
    metadata = _describe(record, path=layout.absolute(record.output.path), step=record.step, layout=layout)
    metadata |= {"seconds": record.seconds, "place": record.place}
    return metadata | _preview(_read_preview(layout, record=record))


def _describe(made: Record | Staged, *, path: Path, step: str, layout: Layout) -> dict[str, Any]:
    """What a record and a staged result have alike."""
    return {
        **{("dagster/row_count" if name == "rows" else name): value for name, value in made.counts.items()},
        "path": dg.MetadataValue.path(str(path)),
        "status": made.status,
        **_wells(made.wells),
        **({"warnings": dg.MetadataValue.md("\n".join(f"- {w}" for w in made.warnings))} if made.warnings else {}),
        **_columns(layout, step),
    }


def _of_job(facts: Mapping[str, str | int | float]) -> dict[str, Any]:
    """Describe the job that did it elsewhere; on one machine there is none."""
    found: dict[str, Any] = {f"job/{name}": value for name, value in facts.items()}
    return found | ({"job/log": dg.MetadataValue.path(str(facts["log"]))} if "log" in facts else {})


def _wells(wells: Mapping[str, WellState]) -> dict[str, Any]:
    failed: dict[str, list[str]] = {}
    for well, state in wells.items():
        if state.status == "failed":
            failed.setdefault(state.reason, []).append(well)
    lines = "\n".join(f"- **{name_some(names)}**: {reason}" for reason, names in failed.items())
    return {"failed wells": dg.MetadataValue.md(lines)} if failed else {}


def _preview(picture: bytes | None) -> dict[str, Any]:
    if picture is None or len(picture) > _PREVIEW_LIMIT:
        return {}
    text = base64.b64encode(picture).decode()
    return {"preview": dg.MetadataValue.md(f"![preview](data:image/png;base64,{text})")}


def _read_preview(layout: Layout, *, record: Record) -> bytes | None:
    """Read the picture that was stored with an artifact; None when there is none."""
    try:
        return layout.preview(record.step, experiment=record.experiment).read_bytes()
    except OSError:  # a lost preview is no reason to fail the step it illustrates
        return None


def _columns(layout: Layout, step: str) -> dict[str, Any]:
    contract = load_contract(layout.artifact(step)) if layout.artifact(step).kind == "table" else None
    if not isinstance(contract, TableContract):
        return {}
    columns = [
        dg.TableColumn(
            name=c.name, type=c.dtype, description=f"{c.description} [{c.unit}]" if c.unit else c.description
        )
        for c in contract.columns
    ]
    return {"dagster/column_schema": dg.TableSchema(columns=columns)}
