"""Small plates for tests: a `Frames` experiment of already focused single pictures, and a tiny Keyence plate."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np

from morphseq_dagster.demo.levels import LEVELS, Difficulty
from morphseq_dagster.demo.microscope import Image, expose
from morphseq_dagster.demo.optics import EmbryoPicture
from morphseq_dagster.demo.plan import DEMO_PLATE, PlatePlan, WellPlan
from morphseq_dagster.demo.plate import DrawnWell
from morphseq_dagster.demo.publish import find_places, publish_plate
from morphseq_dagster.demo.randomness import open_stream
from morphseq_dagster.demo.truth import PlateTruth, write_truth
from morphseq_dagster.demo.workbook import fill_workbook, make_workbook
from morphseq_dagster.identifiers import check_experiment

COLUMNS = ("well", "time_int", "time_s", "path", "um_per_px")

TINY_PLATE = replace(
    DEMO_PLATE,
    wells=(
        WellPlan("A01", start_age_hpf=22.0),
        WellPlan("B02", start_age_hpf=26.0, has_chorion=False),
    ),
    times=2,
    tiles=2,
    planes=3,
)
"""Two wells, two times, two tiles, three planes."""

FRAMES_PLATE = PlatePlan(
    wells=(
        WellPlan("A01", start_age_hpf=20.0),
        WellPlan("A02", start_age_hpf=26.0, has_chorion=False),
        WellPlan("A03", start_age_hpf=24.0, kind="empty"),
    ),
    times=3,
    first_time_int=0,
    death_index=1,
    tiles=1,
    tile_shape_px=(320, 320),
    planes=1,
    um_per_px=6.5,
    edge_every=0,
)
"""Three wells, three times, single pictures: for tests that need an experiment and not its imaging."""


def make_frames_plate(
    data_root: Path,
    *,
    truth_folder: Path,
    experiment: str = "20240419_frames",
    difficulty: Difficulty = "middle",
    plan: PlatePlan = FRAMES_PLATE,
    seed: int = 20240419,
    on_progress: Callable[[int, int], None] | None = None,
) -> PlateTruth:
    """Make a `Frames` experiment: sharp single pictures with `frames.csv`, workbook and truth.

    Writes `raw_image_data/Frames/{experiment}/` with one 8-bit PNG per well and time and `frames.csv` (columns
    `well,time_int,time_s,path,um_per_px`), the workbook, and the truth into `truth_folder`.

    Parameters
    ----------
    data_root, truth_folder, experiment, difficulty, plan, seed, on_progress
        As in `plate.make_plate`.

    Raises
    ------
    PermanentError
        When the experiment id is refused, or the raw folder or foreign files are where the plate goes.
    ValueError
        When an embryo does not fit the picture.
    """
    check_experiment(experiment)
    level = LEVELS[difficulty]
    places = find_places(data_root, source="Frames", experiment=experiment, truth_folder=truth_folder)
    book = make_workbook(fill_workbook(plan.wells))
    margin = 0.03 * min(plan.tile_shape_px)
    field = (margin, margin, plan.tile_shape_px[0] - margin, plan.tile_shape_px[1] - margin)
    total = len(plan.wells) * plan.times
    table: list[tuple[str | int | float, ...]] = []
    wells = []
    with publish_plate(places, experiment=experiment, workbook=book) as part:
        for order, well in enumerate(plan.wells):
            drawn = DrawnWell(
                plan, order=order, turn=order, planes=1, shape=plan.tile_shape_px, field=field, level=level, seed=seed
            )
            frames = []
            for index, time_s in enumerate(drawn.times_s):
                time_int = plan.first_time_int + index
                picture = drawn.render(index)
                frames.append(drawn.record_frame(part.truth, index=index, picture=picture))
                pixels = expose(
                    sharp_scene(drawn.light, picture=picture),
                    shading=None,
                    noise_sd=level.noise_sd,
                    random=open_stream(seed, name=f"{well.well}/{time_int}/noise"),
                    bit_depth=8,
                )
                file = f"{well.well}_t{time_int:04d}.png"
                (part.raw / file).write_bytes(cv2.imencode(".png", pixels)[1].tobytes())
                table.append((well.well, time_int, time_s, file, plan.um_per_px))
                if on_progress is not None:
                    on_progress(len(table), total)
            wells.append(drawn.record(experiment, series="", frames=tuple(frames)))
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerows([COLUMNS, *table])
        (part.raw / "frames.csv").write_text(text.getvalue(), encoding="utf-8")
        truth = PlateTruth(
            experiment=experiment,
            source="Frames",
            difficulty=difficulty,
            seed=seed,
            um_per_px=plan.um_per_px,
            orientation="none",
            tile_shape_px=plan.tile_shape_px,
            planes=1,
            wells=tuple(sorted(wells, key=lambda one: one.well)),
        )
        write_truth(part.truth, truth=truth)
    return truth


def sharp_scene(background: Image, *, picture: EmbryoPicture | None) -> Image:
    """The scene with everything in focus, as a perfect focus stack would show it."""
    scene = background.copy()
    if picture is not None:
        rows = slice(picture.row_px, picture.row_px + picture.absorbance.shape[0])
        columns = slice(picture.column_px, picture.column_px + picture.absorbance.shape[1])
        scene[rows, columns] *= np.exp(-picture.absorbance)
    return scene
