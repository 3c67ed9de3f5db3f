"""Step `sam2_segmentations`: masks with their quality flags, recomputed from scratch (spec 1.8, 3.4).

The rules of the flags are `quality/mask_flags.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from morphseq_dagster.engine.contract.context import Account, StepContext
from morphseq_dagster.engine.contract.step import StepResult
from morphseq_dagster.identifiers import mint_video, parse_image
from morphseq_dagster.morphseq.contracts.organized_frames import OrganizedFrames
from morphseq_dagster.morphseq.contracts.segmentations import EmbryoEntry, SegmentationDocument
from morphseq_dagster.morphseq.recipes import Sam2SegmentationsRecipe
from morphseq_dagster.quality.mask_flags import MaskFlags, flag_masks
from morphseq_dagster.quality.mask_measures import FrameMasks, measure_frame_masks
from morphseq_dagster.segmentation.rle import Rle, decode

AUTHOR = "pipeline_qc"


def run(context: StepContext) -> StepResult:
    """Judge every mask of an experiment."""
    recipe = context.recipe(Sam2SegmentationsRecipe)
    tracks = context.document("sam2_tracks", SegmentationDocument)
    frames = context.document("organized_frames", OrganizedFrames)
    expected = {
        mint_video(context.experiment, well=well): {entry.time_int: image_id for image_id, entry in images.items()}
        for well, images in frames.videos().items()
    }
    flags = flag_masks(_measure(tracks, experiment=context.experiment), expected=expected, settings=recipe.flags)
    document = tracks.model_copy(update={"flags": _section(tracks, flags)})
    counts = {name.lower(): count for name, count in flags.counts().items() if count}
    return context.stage_document(document, account=Account(counts={"masks": len(flags.checked_snips), **counts}))


def _measure(tracks: SegmentationDocument, *, experiment: str) -> Iterator[FrameMasks]:
    for video_id, video in tracks.experiments[experiment].videos.items():
        for image_id, image in video.image_ids.items():
            shape = next((e.segmentation.size for e in image.embryos.values()), (1, 1))
            yield measure_frame_masks(
                {embryo_id: _decoder(entry) for embryo_id, entry in image.embryos.items()},
                video_id=video_id,
                image_id=image_id,
                time_int=parse_image(image_id).frame,
                image_shape=shape,
            )


def _decoder(entry: EmbryoEntry) -> Callable[[], NDArray[np.bool_]]:
    segmentation = entry.segmentation
    return partial(_decode, segmentation.counts, segmentation.size)


def _decode(counts: str, size: tuple[int, int]) -> NDArray[np.bool_]:
    return decode(Rle.from_base64(counts, size=size))


def _section(tracks: SegmentationDocument, flags: MaskFlags) -> dict[str, Any]:
    """Lay the flags out in the document's section: by snip, by image, and an overview per flag."""
    by_snip: dict[str, dict[str, list[Any]]] = {}
    by_image: dict[str, dict[str, list[Any]]] = {}
    overview: dict[str, dict[str, Any]] = {}
    for instance in (*flags.snips, *flags.images):
        values = {**instance.model_dump(mode="json"), "author": AUTHOR, "timestamp": None}
        snip_id = values.get("snip_id")
        place = by_snip if snip_id else by_image
        place.setdefault(snip_id or values["image_id"], {}).setdefault(instance.flag, []).append(values)
        entry = overview.setdefault(instance.flag, {"count": 0, "snip_ids": set(), "image_ids": set()})
        entry["count"] += 1
        entry["snip_ids" if snip_id else "image_ids"].add(snip_id or values["image_id"])
    entities = tracks.entity_tracker.entities
    return {
        "qc_meta": {
            "processed_experiment_ids": list(entities.experiments),
            "processed_video_ids": list(entities.videos),
            "processed_image_ids": list(entities.images),
            "processed_snip_ids": list(entities.snips),
            "last_updated": None,
        },
        "qc_history": [],
        "by_experiment": {},
        "by_video": {},
        "by_image": {key: by_image[key] for key in sorted(by_image)},
        "by_snip": {key: by_snip[key] for key in sorted(by_snip)},
        "flag_overview": {name: _listed(overview[name]) for name in sorted(overview)},
        "qc_summary": {
            "last_updated": None,
            "total_entities_processed": {
                "experiments": len(entities.experiments),
                "videos": len(entities.videos),
                "images": len(entities.images),
                "snips": len(entities.snips),
            },
        },
    }


def _listed(entry: dict[str, Any]) -> dict[str, Any]:
    """Sort the ids of an overview and drop empty lists."""
    lists = {name: sorted(value) for name, value in entry.items() if isinstance(value, set) and value}
    return {"count": entry["count"], **lists}
