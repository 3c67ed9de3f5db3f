"""Cohort: which keys are members of the artifact that joins all, at which version, and which are left out and why.

One reading of the members gives the cohort's request (`requests.py`) and shows whether it is stale, at 99 members as at
1,000. A member is a key whose final artifact stands as recorded.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from morphseq_dagster.engine.layout import RECORD_SUFFIX, Layout
from morphseq_dagster.engine.pipeline import Pipeline
from morphseq_dagster.engine.storage.hashing import hash_json
from morphseq_dagster.engine.storage.records import InputRead, OutputVerdict, Record, compare_output, read_record
from morphseq_dagster.errors import MorphseqError


@dataclass(frozen=True)
class CohortMember:
    """One experiment as the cohort sees it.

    Parameters
    ----------
    experiment
        Name.
    path
        Final table relative to the data root.
    data_version
        Version of the final table; None when it is left out.
    rows
        Rows of the final table; None when it is left out or its record counts none.
    exclusion
        Why it is left out; empty when it is not.
    """

    experiment: str
    path: str
    data_version: str | None = None
    rows: int | None = None
    exclusion: str = ""


@dataclass(frozen=True)
class CohortManifest:
    """All experiments that have a final table or its record, sorted by name."""

    members: tuple[CohortMember, ...]

    @property
    def included(self) -> tuple[CohortMember, ...]:
        """Members whose tables are merged."""
        return tuple(member for member in self.members if member.data_version is not None)

    @property
    def excluded(self) -> tuple[CohortMember, ...]:
        """Members that are left out."""
        return tuple(member for member in self.members if member.data_version is None)

    @property
    def digest(self) -> str:
        """Hash of who is in at which version and who is left out; the cohort is stale when it changes.

        Reasons and row counts follow from these and do not count on their own.
        """
        return hash_json([[member.experiment, member.data_version] for member in self.members])

    def inputs(self) -> tuple[InputRead, ...]:
        """The members as inputs of the cohort's request; one that is left out carries no hash, so its return counts."""
        return tuple(InputRead(name=m.experiment, path=m.path, sha256=m.data_version) for m in self.members)


@dataclass(frozen=True)
class CohortChange:
    """What became of the members since the cohort was made, by name; versions as old and new."""

    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    changed: tuple[tuple[str, str | None, str | None], ...] = ()

    @property
    def is_stale(self) -> bool:
        """Whether the cohort must be made again for it."""
        return bool(self.added or self.removed or self.changed)

    def describe(self) -> str:
        """Say the change in one line, few names of many."""
        changed = [name for name, _, _ in self.changed]
        parts = [("added", self.added), ("removed", self.removed), ("changed", changed)]
        return "; ".join(f"{len(names)} {word}: {_few(names)}" for word, names in parts if names)


_FEW: Final = 5


def read_manifest(pipeline: Pipeline, *, layout: Layout) -> CohortManifest:
    """Read the manifest from the records as they are now; every table is compared with its record."""
    members = find_members(pipeline, layout=layout)
    return CohortManifest(tuple(_read_member(layout, final=pipeline.final, experiment=name) for name in members))


def find_members(pipeline: Pipeline, *, layout: Layout) -> list[str]:
    """Experiments that have a final table or a record of one, sorted."""
    pattern = layout.primary(pipeline.final, experiment="*")
    name = re.compile(re.escape(pattern.name).replace(r"\*", "(.+?)") + rf"(?:{re.escape(RECORD_SUFFIX)})?")
    names = [path.name for path in pattern.parent.iterdir()] if pattern.parent.is_dir() else []
    found = {match[1] for match in map(name.fullmatch, names) if match is not None}
    return sorted(experiment for experiment in found if pipeline.keys.refuse(experiment) is None)


def compare_manifest(manifest: CohortManifest, *, record: Record) -> CohortChange:
    """Compare the members now with those that a recorded cohort was made from.

    Parameters
    ----------
    manifest
        Members now.
    record
        Record of the cohort's table.
    """
    old = {entry.name: entry.sha256 for entry in record.inputs}
    new = {member.experiment: member.data_version for member in manifest.members}
    return CohortChange(
        added=tuple(name for name in sorted(new) if name not in old),
        removed=tuple(name for name in sorted(old) if name not in new),
        changed=tuple((n, old[n], new[n]) for n in sorted(new) if n in old and old[n] != new[n]),
    )


def encode_manifest(manifest: CohortManifest) -> dict[str, Any]:
    """Give a manifest as JSON values."""
    return {
        "schema": "morphseq.cohort",
        "version": 1,
        "digest": manifest.digest,
        "experiments": len(manifest.included),
        "rows": sum(member.rows or 0 for member in manifest.included),
        "members": [
            {"experiment": m.experiment, "data_version": m.data_version, "rows": m.rows, "exclusion": m.exclusion}
            for m in manifest.members
        ],
    }


def _read_member(layout: Layout, *, final: str, experiment: str) -> CohortMember:
    primary = layout.primary(final, experiment=experiment)
    path = layout.relative(primary)
    try:
        record = read_record(layout, primary=primary)
        if record is None:
            return CohortMember(experiment, path, exclusion="its final table has no record")
        verdict = compare_output(layout, record=record) if record.condition == "published" else record.condition
    except (MorphseqError, OSError) as error:
        return CohortMember(experiment, path, exclusion=error.found if isinstance(error, MorphseqError) else str(error))
    if verdict is not OutputVerdict.AS_RECORDED:
        return CohortMember(experiment, path, exclusion=f"its final table is {verdict}")
    return CohortMember(experiment, path, data_version=record.data_version, rows=record.counts.get("rows"))


def _few(names: Sequence[str]) -> str:
    more = f" and {len(names) - _FEW} more" if len(names) > _FEW else ""
    return ", ".join(names[:_FEW]) + more
