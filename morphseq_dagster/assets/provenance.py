"""Provenance as Dagster keeps it: tags that name what an event was made from, for events that no asset's body leaves.

An ordinary materialisation gets the same tags from Dagster itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256
from typing import Final

import dagster as dg
from dagster import AssetKey, EventLogRecord

from morphseq_dagster.engine.layout import COHORT
from morphseq_dagster.engine.storage.records import Record

VERSION_TAG: Final = "dagster/data_version"
USER_PROVIDED_TAG: Final = "dagster/data_version_is_user_provided"
CODE_TAG: Final = "dagster/code_version"
NEVER_SEEN: Final = "-1"
"""Pointer to before the first event: whatever version the input has now is news to the artifact."""
_READ: Final = "morphseq/in."


def version_tags(record: Record, *, pointers: Mapping[str, str]) -> dict[str, str]:
    """Tags as a run leaves them.

    Parameters
    ----------
    record
        The artifact's record.
    pointers
        Assets that it was made from, each with the storage id of the event that it saw.
    """
    tags = {
        VERSION_TAG: record.data_version,
        USER_PROVIDED_TAG: "true",
        CODE_TAG: str(record.step_version),
        "morphseq/recipe": record.recipe_hash[:32],
    }
    read = {entry.name: entry.sha256 for entry in record.inputs}
    if record.experiment != COHORT:
        tags |= {f"{_READ}{name}": (version or "absent")[:32] for name, version in read.items()}
    for name, pointer in sorted(pointers.items()):
        versions = [read.get(name)] if record.experiment != COHORT else [v for _, v in sorted(read.items()) if v]
        text = "".join(version or "" for version in versions)
        tags[f"dagster/input_data_version/{name}"] = sha256(text.encode()).hexdigest()
        tags[f"dagster/input_event_pointer/{name}"] = pointer
    return tags


def find_pointer(instance: dg.DagsterInstance, *, name: str, experiment: str, version: str | None) -> str:
    """Storage id of the newest event of an input's partition, if that event carries the version that was read."""
    newest = find_newest(instance, name=name, experiment=experiment)
    known = newest is not None and tags_of(newest).get(VERSION_TAG) == version
    return str(newest.storage_id) if newest is not None and known else NEVER_SEEN


def find_newest(instance: dg.DagsterInstance, *, name: str, experiment: str) -> EventLogRecord | None:
    """Newest materialisation of an asset's partition."""
    asked = dg.AssetRecordsFilter(asset_key=AssetKey(name), asset_partitions=[experiment])
    return next(iter(instance.fetch_materializations(asked, limit=1).records), None)


def tags_of(record: EventLogRecord | None) -> Mapping[str, str]:
    """Tags of an event."""
    materialization = record.asset_materialization if record is not None else None
    return (materialization.tags or {}) if materialization is not None else {}


def has_same_versions(event: Mapping[str, str], tags: Mapping[str, str]) -> bool:
    """Whether the tags of an event name the versions of a record; pointers differ and do not matter."""
    compared = [name for name in tags if name in (VERSION_TAG, CODE_TAG) or name.startswith(_READ)]
    return bool(event) and all(event.get(name) == tags[name] for name in compared)
