"""The entity tracker that documents of the segmentation half carry: sorted lists of all ids in the document."""

from __future__ import annotations

from collections.abc import Iterable

from morphseq_dagster.engine.tables.document import DocumentPart


class Entities(DocumentPart):
    """Sorted ids by kind."""

    experiments: tuple[str, ...] = ()
    videos: tuple[str, ...] = ()
    images: tuple[str, ...] = ()
    embryos: tuple[str, ...] = ()
    snips: tuple[str, ...] = ()


class EntityTracker(DocumentPart):
    """Entities with the name of the step that wrote them; times stay null so that equal input gives equal bytes."""

    creation_time: None = None
    last_updated: None = None
    pipeline_step: str
    entities: Entities


def track(
    pipeline_step: str,
    *,
    experiment: str,
    videos: Iterable[str] = (),
    images: Iterable[str] = (),
    embryos: Iterable[str] = (),
    snips: Iterable[str] = (),
) -> EntityTracker:
    """Make a tracker of ids in any order."""
    entities = Entities(
        experiments=(experiment,),
        videos=tuple(sorted(set(videos))),
        images=tuple(sorted(set(images))),
        embryos=tuple(sorted(set(embryos))),
        snips=tuple(sorted(set(snips))),
    )
    return EntityTracker(pipeline_step=pipeline_step, entities=entities)
