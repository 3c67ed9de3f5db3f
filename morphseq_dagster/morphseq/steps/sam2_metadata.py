"""Step `sam2_metadata`: the table of 43 columns, one row per embryo and frame (spec 1.10).

Everything here is known already from documents before it; nothing is measured.
"""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Any

import pandas as pd

from morphseq_dagster.engine.contract.context import Account, StepContext
from morphseq_dagster.engine.contract.step import StepResult
from morphseq_dagster.errors import ContractError
from morphseq_dagster.identifiers import parse_image
from morphseq_dagster.morphseq.contracts.experiment_metadata import ExperimentMetadata, VideoInfo
from morphseq_dagster.morphseq.contracts.exported_masks import ExportedMasks
from morphseq_dagster.morphseq.contracts.sam2_metadata import CONTRACT
from morphseq_dagster.morphseq.contracts.segmentations import EmbryoEntry, ImageSegmentation, SegmentationDocument
from morphseq_dagster.quality.mask_flags import SNIP_FLAG_ORDER

_FROM_FRAME = (
    "Height (um)", "Height (px)", "Width (um)", "Width (px)", "Objective", "Time (s)", "Time Rel (s)",
    "height_um", "height_px", "width_um", "width_px", "objective", "raw_time_s", "relative_time_s",
    "microscope", "nd2_series_num",
)  # fmt: skip
_FROM_WELL = (
    "medium", "genotype", "chem_perturbation", "start_age_hpf", "embryos_per_well", "temperature", "well_qc_flag",
)  # fmt: skip


def run(context: StepContext) -> StepResult:
    """Flatten masks, frame geometry and plate values to one table."""
    segmented = context.document("sam2_segmentations", SegmentationDocument)
    exported = context.document("exported_masks", ExportedMasks)
    metadata = context.document("experiment_metadata", ExperimentMetadata)
    wells = metadata.experiments[context.experiment].videos
    flags = segmented.flags.get("by_snip", {})
    _refuse_disagreement(context, segmented, exported)
    rows = []
    for video_id, video in segmented.experiments[context.experiment].videos.items():
        if video.well_id in exported.failed_wells:
            continue
        for image in video.image_ids.values():
            for embryo in image.embryos.values():
                mask_file = PurePosixPath(exported.exports[image.image_id].output_path).name
                row = _row(context.experiment, video_id, image=image, embryo=embryo, mask_file=mask_file)
                row |= _metadata(wells.get(video_id), image_id=image.image_id)
                row["sam2_qc_flags"] = ",".join(f for f in SNIP_FLAG_ORDER if f in flags.get(embryo.snip_id, {}))
                rows.append(row)
    table = pd.DataFrame(rows, columns=list(CONTRACT.names)) if rows else CONTRACT.empty()
    table["sam2_qc_flags"] = table["sam2_qc_flags"].replace("", None)
    left_out = tuple(
        f"{well} is left out, it has no label pictures: {why}" for well, why in exported.failed_wells.items()
    )
    account = Account(counts={"embryos": table["embryo_id"].nunique()}, warnings=left_out)
    return context.stage_table(table, contract=CONTRACT, account=account)


def _row(
    experiment: str, video_id: str, *, image: ImageSegmentation, embryo: EmbryoEntry, mask_file: str
) -> dict[str, Any]:
    parts = parse_image(image.image_id)
    box = embryo.segmentation.bbox
    return {
        "image_id": image.image_id,
        "embryo_id": embryo.embryo_id,
        "snip_id": embryo.snip_id,
        "frame_index": image.frame_index,
        "area_px": embryo.segmentation.area,
        "bbox_x_min": box[0],
        "bbox_y_min": box[1],
        "bbox_x_max": box[2],
        "bbox_y_max": box[3],
        "mask_confidence": embryo.mask_confidence,
        "exported_mask_path": mask_file,
        "experiment_id": experiment,
        "video_id": video_id,
        "is_seed_frame": image.is_seed_frame,
        "well": parts.well,
        "time_int": parts.frame,
        "time_string": f"T{parts.frame:04d}",
    }


def _metadata(video: VideoInfo | None, *, image_id: str) -> dict[str, Any]:
    if video is None:
        return {}
    info = video.image_ids[image_id].raw_image_data_info if image_id in video.image_ids else {}
    values = {name: info.get(name) for name in _FROM_FRAME}
    channel = info.get("BF Channel")
    text = None if channel is None else str(channel)
    values |= {"BF Channel": text, "bf_channel": text}
    return values | {name: getattr(video, name) for name in _FROM_WELL}


def _refuse_disagreement(context: StepContext, segmented: SegmentationDocument, exported: ExportedMasks) -> None:
    """Refuse masks and segmentation that are out of step: per image the same number of embryos, failed wells apart."""
    problems = []
    for video in segmented.experiments[context.experiment].videos.values():
        if video.well_id in exported.failed_wells:
            continue
        for image in video.image_ids.values():
            export = exported.exports.get(image.image_id)
            count = export.embryo_count if export is not None else 0
            if count != len(image.embryos):
                problems.append(f"{image.image_id}: {len(image.embryos)} embryos, {count} exported")
    if problems:
        raise ContractError(
            expected="as many embryos in the exported masks as in the segmentation",
            found="; ".join(problems),
            where=context.input("exported_masks").path,
            remedy=f"morphseq materialize --partition {context.experiment} --select exported_masks",
        )
