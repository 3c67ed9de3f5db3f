"""From what was drawn to what is recorded: truth of frames and wells, and the workbook's cells.

Holds the cutting of scene truth to a frame's mosaic. Does not hold the records' types (`truth`) or drawing.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from morphseq_dagster.demo.optics import EmbryoPicture
from morphseq_dagster.demo.plan import WellPlan
from morphseq_dagster.demo.story import WellStory
from morphseq_dagster.demo.truth import OUTSIDE, FrameTruth, WellTruth, write_map
from morphseq_dagster.demo.workbook import SHEETS, Cell
from morphseq_dagster.identifiers import mint_embryo


def record_frame(
    folder: Path,
    *,
    well: str,
    story: WellStory | None,
    index: int,
    time_int: int,
    time_s: float,
    picture: EmbryoPicture | None,
    scene_shape: tuple[int, int],
    places: tuple[tuple[int, int], ...],
    tile_shape: tuple[int, int],
    planes: int,
) -> FrameTruth:
    """Write mask and plane map of one frame and return its record.

    Parameters
    ----------
    folder
        Truth folder.
    well, story, index
        The well, what happens in it, and the frame's index in the story.
    time_int, time_s
        Frame number and seconds since the experiment's first picture.
    picture
        The rendered embryo; None in an empty well.
    scene_shape
        (rows, columns) of the scene.
    places
        (row, column) of every tile's first pixel in the scene.
    tile_shape
        (rows, columns) of a tile.
    planes
        Number of focal planes.
    """
    positions = np.array(places)
    top, left = (int(v) for v in positions.min(axis=0))
    bottom, right = (int(v) for v in positions.max(axis=0) + tile_shape)
    mask = np.zeros(scene_shape, np.uint8)
    plane_map = np.full(scene_shape, OUTSIDE, np.uint8)
    if picture is not None:
        rows = slice(picture.row_px, picture.row_px + picture.mask.shape[0])
        columns = slice(picture.column_px, picture.column_px + picture.mask.shape[1])
        mask[rows, columns] = picture.mask
        nearest = np.clip(np.rint(picture.height), 0, planes - 1).astype(np.uint8)
        plane_map[rows, columns] = np.where(picture.mask, nearest, OUTSIDE)
    mask, plane_map = mask[top:bottom, left:right], plane_map[top:bottom, left:right]
    write_map(folder, kind="masks", well=well, time_int=time_int, labels=mask)
    write_map(folder, kind="planes", well=well, time_int=time_int, labels=plane_map)
    body = None
    if mask.any():
        across, down = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
        body = (float(down[0]), float(across[0]), float(down[-1] + 1), float(across[-1] + 1))
    chorion = None
    if story is not None and story.chorion is not None:
        box = story.chorion.box_px
        chorion = (box[0] - top, box[1] - left, box[2] - top, box[3] - left)
    pose = None if story is None else story.poses[index]
    first = places[0]
    return FrameTruth(
        time_int=time_int,
        time_s=time_s,
        age_hpf=None if pose is None else pose.age_hpf,
        opacity=None if pose is None else pose.opacity,
        mosaic_origin_px=(top - first[0], left - first[1]),
        mosaic_shape_px=(bottom - top, right - left),
        tile_offsets_px=tuple((row - first[0], column - first[1]) for row, column in places),
        body_area_px=int(mask.sum()),
        body_box_px=body,
        chorion_box_px=chorion,
    )


def record_well(
    experiment: str, *, well: WellPlan, series: str, story: WellStory | None, frames: tuple[FrameTruth, ...]
) -> WellTruth:
    """Record of a well; `series` is its raw folder, empty for `Frames`."""
    death = next((frame for frame in frames if frame.opacity), None)
    return WellTruth(
        well=well.well,
        series=series,
        kind=well.kind,
        embryo_id=None if story is None else mint_embryo(experiment, well=well.well, number=1),
        has_chorion=story is not None and well.has_chorion,
        death_time_int=None if death is None else death.time_int,
        death_time_s=None if death is None else death.time_s,
        head_plane=None if story is None else story.design.head_plane,
        trunk_plane=None if story is None else story.design.trunk_plane,
        tail_plane=None if story is None else story.design.tail_plane,
        frames=frames,
    )


def fill_workbook(wells: tuple[WellPlan, ...]) -> dict[str, dict[str, Cell]]:
    """Cells of the plate workbook, sheet by sheet; an empty well has its row, with no embryo in it."""
    sheets: dict[str, dict[str, Cell]] = {name: {} for name in SHEETS}
    for well in wells:
        sheets["medium"][well.well] = well.medium
        sheets["genotype"][well.well] = well.genotype
        sheets["chem_perturbation"][well.well] = well.chem_perturbation
        sheets["start_age_hpf"][well.well] = well.start_age_hpf
        sheets["embryos_per_well"][well.well] = 0 if well.kind == "empty" else 1
        sheets["temperature"][well.well] = well.temperature
        sheets["pair"][well.well] = well.pair
    return sheets
