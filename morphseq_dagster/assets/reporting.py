"""Reporting: events for what lies on the disk - materialisations of recorded artifacts, tombstones of missing ones.

No run is needed, nothing is computed and no file changes. The data root is the truth: a Dagster home that was lost is
filled again from here, and what an instance knows already is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final

import dagster as dg
from dagster import AssetKey, AssetMaterialization, DagsterInstance

from morphseq_dagster.assets.description import describe_record
from morphseq_dagster.assets.provenance import (
    CODE_TAG,
    NEVER_SEEN,
    VERSION_TAG,
    has_same_versions,
    tags_of,
    version_tags,
)
from morphseq_dagster.engine.layout import COHORT
from morphseq_dagster.engine.pipeline import Pipeline
from morphseq_dagster.engine.planner.inventory import Located, list_artifacts
from morphseq_dagster.engine.planner.retirement import read_retired
from morphseq_dagster.engine.storage.records import OutputVerdict, Record, compare_output, read_record
from morphseq_dagster.engine.workspace import Workspace
from morphseq_dagster.errors import MorphseqError
from morphseq_dagster.partitions import register_keys

ORIGIN_TAG: Final = "morphseq/origin"
REPORT_TAG: Final = "morphseq/reported"
FILE_MISSING: Final = "file-missing"
"""Code version of a tombstone: Dagster then shows the partition as unsynced, and its descendants as they are."""
_PAGE: Final = 1000


@dataclass(frozen=True)
class Reported:
    """What a report did.

    Parameters
    ----------
    reported, tombstones
        New events of artifacts and of missing files.
    known
        Artifacts that Dagster knew already, with the same versions.
    registered
        New partitions.
    refused
        Records that could not be read, with the reason.
    """

    reported: int = 0
    tombstones: int = 0
    known: int = 0
    registered: int = 0
    refused: tuple[tuple[str, str], ...] = ()


def report_records(
    instance: DagsterInstance,
    *,
    graph: dg.AssetGraph | Any,  # noqa: ANN401 - Dagster's type has no public name
    workspace: Workspace,
    experiments: Collection[str] | None = None,
    limit: int | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Reported:
    """Report every recorded artifact that the instance does not know with these versions.

    Parameters
    ----------
    instance
        The Dagster instance.
    graph
        Asset graph of the definitions.
    workspace
        Data root and pipeline.
    experiments
        Names to report; all that are not retired when None.
    limit
        Most events to write; the rest is for the next call.
    on_progress
        Called with the number done and the number in all.
    """
    retired = read_retired(workspace)
    located = [
        entry
        for entry in list_artifacts(workspace, experiments=experiments)
        if entry.has_record and entry.experiment not in retired and graph.has(AssetKey(entry.step))
    ]
    located = [entry for entry in located if _is_chosen(workspace, entry)]
    new = register_keys(
        instance, {e.experiment for e in located if e.experiment != COHORT}, pipeline=workspace.pipeline
    )
    reporter = _Reporter(instance, graph=graph, workspace=workspace)
    # Asset by asset in the graph's order: the pointer to an input's newest event is then looked up once per input.
    order = {key.path[-1]: number for number, key in enumerate(graph.toposorted_asset_keys)}
    located.sort(key=lambda entry: (order[entry.step], entry.experiment))
    for number, entry in enumerate(located):
        if limit is not None and reporter.written >= limit:
            break
        reporter.report(entry)
        if on_progress is not None:
            on_progress(number + 1, len(located))
    return reporter.summary(registered=len(new))


def remove_partition(instance: DagsterInstance, *, pipeline: Pipeline, experiment: str) -> bool:
    """Remove an experiment's partition; return whether there was one."""
    name = pipeline.keys.noun
    if not instance.has_dynamic_partition(name, experiment):
        return False
    instance.delete_dynamic_partition(name, experiment)
    return True


class _Reporter:
    def __init__(self, instance: DagsterInstance, *, graph: Any, workspace: Workspace) -> None:  # noqa: ANN401
        self._instance = instance
        self._graph = graph
        self._workspace = workspace
        self._known_tags: dict[str, dict[str | None, Mapping[str, str]]] = {}
        self._inputs: dict[str, tuple[int, dict[str | None, Mapping[str, str]]]] = {}
        self._counts = {"reported": 0, "tombstones": 0, "known": 0}
        self._refused: list[tuple[str, str]] = []

    @property
    def written(self) -> int:
        """Events written so far."""
        return self._counts["reported"] + self._counts["tombstones"]

    def report(self, entry: Located) -> None:
        layout = self._workspace.layout
        try:
            record = read_record(layout, primary=entry.primary)
            if record is None:
                return
            missing = record.condition != "pruned" and compare_output(layout, record=record) is OutputVerdict.MISSING
        except (MorphseqError, OSError) as error:
            self._refused.append((layout.relative(entry.primary), str(error)))
            return
        tags = self._tags(record)
        if missing:
            tags |= {CODE_TAG: FILE_MISSING, REPORT_TAG: "missing"}
        partition = None if entry.experiment == COHORT else entry.experiment
        if self._is_known(entry.step, partition=partition, tags=tags):
            self._counts["known"] += 1
            return
        event = AssetMaterialization(
            asset_key=AssetKey(entry.step),
            partition=partition,
            description=f"{record.output.path} is gone" if missing else None,
            metadata=describe_record(record, workspace=self._workspace),
            tags=tags,
        )
        self._instance.report_runless_asset_event(event)
        self._inputs.pop(entry.step, None)
        self._counts["tombstones" if missing else "reported"] += 1

    def summary(self, *, registered: int) -> Reported:
        return Reported(**self._counts, registered=registered, refused=tuple(self._refused))

    def _tags(self, record: Record) -> dict[str, str]:
        """Tags as a run would have left them, plus where the artifact came from."""
        read = {entry.name: entry.sha256 for entry in record.inputs}
        names = sorted(key.path[-1] for key in self._graph.get(AssetKey(record.step)).parent_keys)
        pointers = {name: self._pointer(record, name=name, read=read) for name in names}
        return version_tags(record, pointers=pointers) | {ORIGIN_TAG: record.origin, REPORT_TAG: "record"}

    def _pointer(self, record: Record, *, name: str, read: Mapping[str, str | None]) -> str:
        """Storage id of the input's newest event, if the artifact was made from the version that event carries."""
        wanted: dict[str | None, str | None] = {record.experiment: read.get(name)}
        if record.experiment == COHORT:
            wanted = {experiment: version for experiment, version in read.items() if version}
        if name not in self._inputs:
            # The pointer first: an event of a run meanwhile then counts as news, never as seen.
            newest = self._instance.fetch_materializations(AssetKey(name), limit=1).records
            self._inputs[name] = (newest[0].storage_id if newest else 0, _latest_tags(self._instance, step=name))
        pointer, known = self._inputs[name]
        news = any(known.get(partition, {}).get(VERSION_TAG) != version for partition, version in wanted.items())
        return NEVER_SEEN if news else str(pointer)

    def _is_known(self, step: str, *, partition: str | None, tags: Mapping[str, str]) -> bool:
        """Whether the newest event of an artifact has the versions of its record."""
        if step not in self._known_tags:
            self._known_tags[step] = _latest_tags(self._instance, step=step)
        return has_same_versions(self._known_tags[step].get(partition, {}), tags)


def _latest_tags(instance: DagsterInstance, *, step: str) -> dict[str | None, Mapping[str, str]]:
    """Tags of the newest materialisation of an asset, by partition."""
    found: dict[str | None, Mapping[str, str]] = {}
    cursor: str | None = None
    while True:
        page = instance.fetch_materializations(AssetKey(step), limit=_PAGE, cursor=cursor)
        for record in page.records:
            found.setdefault(record.partition_key, tags_of(record))
        if not page.has_more:
            return found
        cursor = page.cursor


def _is_chosen(workspace: Workspace, entry: Located) -> bool:
    """Whether an artifact is the one that its asset stands for: of several latent models the recipe's."""
    if not entry.variant:
        return True
    try:
        return workspace.output(entry.step, experiment=entry.experiment) == entry.primary
    except MorphseqError:
        return False
