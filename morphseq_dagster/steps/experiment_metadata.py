"""Step `experiment_metadata`: videos and images with frame geometry and plate values as one document (spec 1.6).

Holds the nesting. Only the tables after segmentation read it.
"""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from morphseq_dagster.contracts.built_metadata import CONTRACT as FRAMES
from morphseq_dagster.contracts.entities import track
from morphseq_dagster.contracts.experiment_metadata import (
    ExperimentInfo,
    ExperimentMetadata,
    ImageInfo,
    VideoInfo,
)
from morphseq_dagster.contracts.organized_frames import ImageEntry, OrganizedFrames
from morphseq_dagster.identifiers import mint_video
from morphseq_dagster.steps.contract import StepRequest, StepResult
from morphseq_dagster.steps.workbench import Account, Workbench

_ALIASES = {
    "height_um": "Height (um)",
    "height_px": "Height (px)",
    "width_um": "Width (um)",
    "width_px": "Width (px)",
    "bf_channel": "BF Channel",
    "objective": "Objective",
    "raw_time_s": "Time (s)",
    "relative_time_s": "Time Rel (s)",
}
_PLAIN = ("Channel", "um_per_px", "experiment_date", "time_string", "microscope", "nd2_series_num")


def run(request: StepRequest) -> StepResult:
    """Nest the frame table by video and image."""
    bench = Workbench(request)
    frames = bench.document("organized_frames", OrganizedFrames)
    table = bench.table("built_metadata", FRAMES)
    rows = {(row["well"], row["time_int"]): row for row in table.to_dict("records")}
    videos = {
        mint_video(bench.experiment, well=well): _video(bench, well=well, images=images, rows=rows)
        for well, images in frames.videos().items()
    }
    document = ExperimentMetadata(
        experiments={bench.experiment: ExperimentInfo(experiment_id=bench.experiment, videos=videos)},
        entity_tracker=track(
            "module_0_data_organization", experiment=bench.experiment, videos=videos, images=frames.images
        ),
    )
    return bench.stage_document(document, account=Account(counts={"videos": len(videos), "images": len(frames.images)}))


def _video(
    bench: Workbench, *, well: str, images: dict[str, ImageEntry], rows: dict[tuple[str, int], dict[Any, Any]]
) -> VideoInfo:
    first = next(iter(images.values()))
    plate = rows.get((well, first.time_int), {})
    return VideoInfo(
        video_id=mint_video(bench.experiment, well=well),
        well_id=well,
        processed_jpg_images_dir=first.path.rpartition("/")[0],
        total_frames=len(images),
        image_size=(first.height_px, first.width_px),
        source_well_metadata_csv=bench.input("built_metadata").path,
        medium=_plain(plate.get("medium")),
        genotype=_plain(plate.get("genotype")),
        chem_perturbation=_plain(plate.get("chem_perturbation")),
        start_age_hpf=_plain(plate.get("start_age_hpf")),
        embryos_per_well=_plain(plate.get("embryos_per_well")),
        temperature=_plain(plate.get("temperature")),
        well_qc_flag=_plain(plate.get("well_qc_flag")),
        image_ids={
            image_id: ImageInfo(
                frame_index=entry.frame_index,
                raw_image_data_info=_frame_info(rows.get((well, entry.time_int), {})),
                processed_image_path=entry.path,
            )
            for image_id, entry in images.items()
        },
    )


def _frame_info(row: dict[Any, Any]) -> dict[str, Any]:
    """One row of the frame table under both spellings; empty when the table has no such frame."""
    if not row:
        return {}
    info = {name: _plain(row[name]) for name in (*_ALIASES.values(), *_PLAIN)}
    return info | {alias: info[name] for alias, name in _ALIASES.items()}


def _plain(value: Any) -> Any:  # noqa: ANN401 - cells of any column
    """Turn a cell into a JSON value; every kind of null becomes None."""
    if value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value)):
        return None
    return value.item() if hasattr(value, "item") else value
