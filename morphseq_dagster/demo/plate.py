"""Maker of a demo plate: raw files, workbook and truth.

Holds `make_plate` (Keyence-like) and `make_frames_plate` (single pictures). Does not hold drawing.

Everything is written into temporary folders beside its place and renamed when whole, the raw folder last, so an
experiment appears complete or not at all. Equal arguments give equal bytes.
"""

from __future__ import annotations

import csv
import io
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from morphseq_dagster.demo.levels import LEVELS, Difficulty, Level
from morphseq_dagster.demo.microscope import (
    Stage,
    blur_background,
    expose,
    make_stage,
    shade_tile,
    sharp_scene,
    take_plane,
    write_keyence_tiff,
)
from morphseq_dagster.demo.optics import EmbryoPicture, render_embryo
from morphseq_dagster.demo.plan import DEMO_PLATE, FRAMES_PLATE, FramesPlan, PlatePlan, WellPlan
from morphseq_dagster.demo.randomness import open_stream
from morphseq_dagster.demo.scene import draw_background
from morphseq_dagster.demo.story import WellStory, tell_story
from morphseq_dagster.demo.truth import OUTSIDE, FrameTruth, PlateTruth, WellTruth, write_map, write_truth
from morphseq_dagster.demo.workbook import SHEETS, Cell, write_workbook
from morphseq_dagster.errors import PermanentError
from morphseq_dagster.identifiers import check_experiment, mint_embryo

Progress = Callable[[int, int], None]

WELL_SECONDS = 12.3
"""Seconds from one well to the next (spec 3.2)."""
PLANE_SECONDS = 0.3
_FIELD_SHARE = 0.71
"""Share of the mosaic's long side that survives the crop to the canvas (1140 of 1536 px, spec 3.5), less jitter."""
_NO_PLANE = 0.0


def make_plate(
    data_root: Path,
    *,
    truth_folder: Path,
    experiment: str = "20240418_demo",
    difficulty: Difficulty = "middle",
    plan: PlatePlan = DEMO_PLATE,
    seed: int = 20240418,
    on_progress: Progress | None = None,
) -> PlateTruth:
    """Make a Keyence-like experiment with workbook and truth.

    Writes `raw_image_data/Keyence/{experiment}/` and `metadata/well_metadata/{experiment}_well_metadata.xlsx` under
    `data_root`, and the truth into `truth_folder`. Tiles lie side by side for experiments from 2024 on and one
    above the other before (spec 3.5).

    Parameters
    ----------
    data_root
        Folder of the data; made when absent.
    truth_folder
        New folder for the truth; not among the data root's inputs.
    experiment
        Experiment id.
    difficulty
        `easy`, `middle` or `hard`, see `levels`.
    plan
        Wells, times, tiles, planes, sizes.
    seed
        Seed of everything drawn.
    on_progress
        Called with (frames done, frames in all) after every well and time.

    Raises
    ------
    PermanentError
        When the experiment id is refused or experiment, workbook or truth are there already.
    ValueError
        When an embryo does not fit the field.
    """
    check_experiment(experiment)
    horizontal = experiment[:4] >= "2024"
    stage = make_stage(
        tile_shape=plan.tile_shape_px, tiles=plan.tiles, along=1 if horizontal else 0, overlap=plan.overlap
    )
    level = LEVELS[difficulty]
    raw = data_root / "raw_image_data" / "Keyence" / experiment
    book = data_root / "metadata" / "well_metadata" / f"{experiment}_well_metadata.xlsx"
    series = _number_wells(plan.wells)
    total, done = len(plan.wells) * plan.times, 0
    with _publish(raw, truth_folder, book) as (raw_part, truth_part, book_part):
        wells = []
        for order, well in enumerate(plan.wells):
            turn = list(series.values()).index(series[well.well])
            times_s = tuple(round(k * plan.time_step_s + turn * WELL_SECONDS, 1) for k in range(plan.times))
            story = tell_story(
                seed,
                well=well,
                times_s=times_s,
                death_index=plan.death_index,
                planes=plan.planes,
                um_per_px=plan.um_per_px,
                field=_inner_field(stage.scene_shape, along=stage.along),
            )
            well_folder = raw_part / series[well.well]
            well_folder.mkdir(parents=True)
            (well_folder / f"_{well.well}").touch()
            light = draw_background(
                seed,
                name=well.well,
                shape=stage.scene_shape,
                um_per_px=plan.um_per_px,
                level=level,
                keep_clear=None if story is None else story.keep_clear,
                edge=plan.with_edge > 0 and order % plan.with_edge == 0,
            )
            bottom = float(max((plan.planes - 1) // 2 - 1, 0))
            backgrounds = blur_background(light, planes=plan.planes, sharpest=bottom, level=level)
            shadings = [
                shade_tile(seed, name=f"{well.well}/{tile}", tile_shape=stage.tile_shape, level=level)
                for tile in range(stage.tiles)
            ]
            frames = []
            for index, time_s in enumerate(times_s):
                time_int = plan.first_time_int + index
                name = f"{well.well}/{time_int}"
                places = stage.place_tiles(seed, name=name, level=level)
                picture = _render(story, index=index, level=level, plan=plan, scene_shape=stage.scene_shape)
                frame, mask, planes = _frame_truth(
                    story,
                    index=index,
                    time_int=time_int,
                    time_s=time_s,
                    picture=picture,
                    scene_shape=stage.scene_shape,
                    places=places,
                    tile_shape=stage.tile_shape,
                    planes=plan.planes,
                )
                write_map(truth_part, kind="masks", well=well.well, time_int=time_int, labels=mask)
                write_map(truth_part, kind="planes", well=well.well, time_int=time_int, labels=planes)
                frames.append(frame)
                time_folder = well_folder / f"T{time_int:04d}"
                time_folder.mkdir()
                noise = open_stream(seed, name=f"{name}/noise")
                for plane in range(plan.planes):
                    seen = take_plane(backgrounds[plane], picture=picture, plane=float(plane), level=level)
                    for tile, (row, column) in enumerate(places):
                        cut = seen[row : row + stage.tile_shape[0], column : column + stage.tile_shape[1]]
                        pixels = expose(
                            cut,
                            shading=shadings[tile],
                            noise_sd=level.noise_sd,
                            random=noise,
                            bit_depth=plan.bit_depth,
                        )
                        file = f"embryo__{series[well.well]}_{tile + 1:05d}_Z{plane + 1:03d}_CH1.tif"
                        shot = time_s + (tile * plan.planes + plane) * PLANE_SECONDS
                        write_keyence_tiff(
                            time_folder / file, pixels=pixels, um_per_px=plan.um_per_px, time_s=shot
                        )
                done += 1
                if on_progress is not None:
                    on_progress(done, total)
            wells.append(
                _well_truth(experiment, well=well, series=series[well.well], story=story, frames=tuple(frames))
            )
        truth = PlateTruth(
            experiment=experiment,
            source="Keyence",
            difficulty=difficulty,
            seed=seed,
            um_per_px=plan.um_per_px,
            orientation="horizontal" if horizontal else "vertical",
            tile_shape_px=stage.tile_shape,
            planes=plan.planes,
            wells=tuple(sorted(wells, key=lambda one: one.well)),
        )
        write_truth(truth_part, truth=truth)
        write_workbook(book_part, sheets=_workbook_sheets(plan.wells))
    return truth


def make_frames_plate(
    data_root: Path,
    *,
    truth_folder: Path,
    experiment: str = "20240419_frames",
    difficulty: Difficulty = "middle",
    plan: FramesPlan = FRAMES_PLATE,
    seed: int = 20240419,
    on_progress: Progress | None = None,
) -> PlateTruth:
    """Make a `Frames` experiment: sharp single pictures with `frames.csv`, workbook and truth.

    Writes `raw_image_data/Frames/{experiment}/` with one PNG per well and time and `frames.csv` (columns
    `well,time_int,time_s,path,um_per_px`), the workbook, and the truth into `truth_folder`.

    Parameters
    ----------
    data_root, truth_folder, experiment, difficulty, plan, seed, on_progress
        As in `make_plate`.

    Raises
    ------
    PermanentError
        When the experiment id is refused or experiment, workbook or truth are there already.
    ValueError
        When an embryo does not fit the picture.
    """
    check_experiment(experiment)
    level = LEVELS[difficulty]
    raw = data_root / "raw_image_data" / "Frames" / experiment
    book = data_root / "metadata" / "well_metadata" / f"{experiment}_well_metadata.xlsx"
    total, done = len(plan.wells) * plan.times, 0
    table: list[tuple[str | int | float, ...]] = []
    with _publish(raw, truth_folder, book) as (raw_part, truth_part, book_part):
        wells = []
        for order, well in enumerate(plan.wells):
            times_s = tuple(round(k * plan.time_step_s + order * WELL_SECONDS, 1) for k in range(plan.times))
            margin = 0.03 * min(plan.shape_px)
            story = tell_story(
                seed,
                well=well,
                times_s=times_s,
                death_index=plan.death_index,
                planes=1,
                um_per_px=plan.um_per_px,
                field=(margin, margin, plan.shape_px[0] - margin, plan.shape_px[1] - margin),
            )
            light = draw_background(
                seed,
                name=well.well,
                shape=plan.shape_px,
                um_per_px=plan.um_per_px,
                level=level,
                keep_clear=None if story is None else story.keep_clear,
                edge=plan.with_edge > 0 and order % plan.with_edge == 0,
            )
            frames = []
            for index, time_s in enumerate(times_s):
                time_int = plan.first_time_int + index
                picture = _render(story, index=index, level=level, plan=plan, scene_shape=plan.shape_px)
                frame, mask, planes = _frame_truth(
                    story,
                    index=index,
                    time_int=time_int,
                    time_s=time_s,
                    picture=picture,
                    scene_shape=plan.shape_px,
                    places=((0, 0),),
                    tile_shape=plan.shape_px,
                    planes=1,
                )
                write_map(truth_part, kind="masks", well=well.well, time_int=time_int, labels=mask)
                write_map(truth_part, kind="planes", well=well.well, time_int=time_int, labels=planes)
                frames.append(frame)
                pixels = expose(
                    sharp_scene(light, picture=picture),
                    shading=None,
                    noise_sd=level.noise_sd,
                    random=open_stream(seed, name=f"{well.well}/{time_int}/noise"),
                    bit_depth=8,
                )
                file = f"{well.well}_t{time_int:04d}.png"
                (raw_part / file).write_bytes(cv2.imencode(".png", pixels)[1].tobytes())
                table.append((well.well, time_int, time_s, file, plan.um_per_px))
                done += 1
                if on_progress is not None:
                    on_progress(done, total)
            wells.append(_well_truth(experiment, well=well, series="", story=story, frames=tuple(frames)))
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(("well", "time_int", "time_s", "path", "um_per_px"))
        writer.writerows(table)
        (raw_part / "frames.csv").write_text(text.getvalue(), encoding="utf-8")
        truth = PlateTruth(
            experiment=experiment,
            source="Frames",
            difficulty=difficulty,
            seed=seed,
            um_per_px=plan.um_per_px,
            orientation="none",
            tile_shape_px=plan.shape_px,
            planes=1,
            wells=tuple(sorted(wells, key=lambda one: one.well)),
        )
        write_truth(truth_part, truth=truth)
        write_workbook(book_part, sheets=_workbook_sheets(plan.wells))
    return truth


def _render(
    story: WellStory | None,
    *,
    index: int,
    level: Level,
    plan: PlatePlan | FramesPlan,
    scene_shape: tuple[int, int],
) -> EmbryoPicture | None:
    if story is None:
        return None
    return render_embryo(
        story.design,
        pose=story.poses[index],
        chorion=story.chorion,
        look=level.look,
        um_per_px=plan.um_per_px,
        scene_shape=scene_shape,
    )


def _frame_truth(
    story: WellStory | None,
    *,
    index: int,
    time_int: int,
    time_s: float,
    picture: EmbryoPicture | None,
    scene_shape: tuple[int, int],
    places: tuple[tuple[int, int], ...],
    tile_shape: tuple[int, int],
    planes: int,
) -> tuple[FrameTruth, npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """Cut the truth of the scene to the mosaic of this frame's tiles."""
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
    body = None
    if mask.any():
        across, down = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
        body = (float(down[0]), float(across[0]), float(down[-1] + 1), float(across[-1] + 1))
    chorion = None
    if story is not None and story.chorion is not None:
        box = story.chorion.box_px
        chorion = (box[0] - top, box[1] - left, box[2] - top, box[3] - left)
    first = places[0]
    frame = FrameTruth(
        time_int=time_int,
        time_s=time_s,
        age_hpf=None if story is None else story.poses[index].age_hpf,
        opacity=None if story is None else story.poses[index].opacity,
        mosaic_origin_px=(top - first[0], left - first[1]),
        mosaic_shape_px=(bottom - top, right - left),
        tile_offsets_px=tuple((row - first[0], column - first[1]) for row, column in places),
        body_area_px=int(mask.sum()),
        body_box_px=body,
        chorion_box_px=chorion,
    )
    return frame, mask, plane_map


def _well_truth(
    experiment: str, *, well: WellPlan, series: str, story: WellStory | None, frames: tuple[FrameTruth, ...]
) -> WellTruth:
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


def _inner_field(scene_shape: tuple[int, int], *, along: int) -> tuple[float, float, float, float]:
    """Part of the scene that every tile pattern covers and no crop removes."""
    margin = [34.0, 34.0]
    margin[along] = (1 - _FIELD_SHARE) / 2 * scene_shape[along] + 6
    return margin[0], margin[1], scene_shape[0] - margin[0], scene_shape[1] - margin[1]


def _number_wells(wells: tuple[WellPlan, ...]) -> dict[str, str]:
    """Raw folder of each well, numbered as the stage travels: every other row backwards."""

    def travel(name: str) -> tuple[str, int]:
        column = int(name[1:])
        return name[0], column if (ord(name[0]) - ord("A")) % 2 == 0 else -column

    return {name: f"XY{n + 1:02d}" for n, name in enumerate(sorted((w.well for w in wells), key=travel))}


def _workbook_sheets(wells: tuple[WellPlan, ...]) -> dict[str, dict[str, Cell]]:
    sheets: dict[str, dict[str, Cell]] = {name: {} for name in SHEETS}
    for well in wells:
        for name, value in (
            ("medium", well.medium),
            ("genotype", well.genotype),
            ("chem_perturbation", well.chem_perturbation),
            ("start_age_hpf", well.start_age_hpf),
            ("embryos_per_well", 0 if well.kind == "empty" else 1),
            ("temperature", well.temperature),
            ("pair", well.pair),
        ):
            sheets[name][well.well] = value
    return sheets


@contextmanager
def _publish(raw: Path, truth: Path, book: Path) -> Iterator[tuple[Path, Path, Path]]:
    """Hand out temporary places; on success rename them, the raw folder last, else remove them."""
    there = [str(path) for path in (raw, truth, book) if path.exists()]
    if there:
        raise PermanentError(
            expected="room for a new demo plate",
            found=", ".join(there),
            where=str(raw),
            remedy="remove the earlier plate or choose another experiment id and truth folder",
        )
    parts = [path.with_name(f".{path.name}.{os.getpid()}.tmp") for path in (raw, truth, book)]
    for part in parts:
        part.parent.mkdir(parents=True, exist_ok=True)
    try:
        parts[0].mkdir()
        parts[1].mkdir()
        yield parts[0], parts[1], parts[2]
        parts[2].replace(book)
        parts[1].replace(truth)
        parts[0].replace(raw)
    finally:
        for part in parts:
            if part.is_dir():
                shutil.rmtree(part)
            else:
                part.unlink(missing_ok=True)
