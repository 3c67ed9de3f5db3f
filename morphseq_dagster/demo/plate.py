"""Maker of the demo plate: raw files of a Keyence microscope, workbook and truth; equal arguments give equal bytes.

`DrawnWell` is one well as makers of plates need it. What lies where comes from `story`, how it looks from `scene` and
`optics`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from morphseq_dagster.demo.levels import LEVELS, Difficulty, Level
from morphseq_dagster.demo.microscope import (
    Image,
    Stage,
    blur_background,
    expose,
    make_stage,
    shade_tile,
    take_plane,
    write_keyence_tiff,
)
from morphseq_dagster.demo.optics import EmbryoPicture, render_embryo
from morphseq_dagster.demo.plan import DEMO_PLATE, PlatePlan, WellPlan
from morphseq_dagster.demo.publish import find_places, publish_plate
from morphseq_dagster.demo.randomness import open_stream
from morphseq_dagster.demo.scene import draw_background
from morphseq_dagster.demo.story import WELL_SECONDS, WellStory, tell_story
from morphseq_dagster.demo.truth import OUTSIDE, FrameTruth, PlateTruth, WellTruth, write_map, write_truth
from morphseq_dagster.demo.workbook import fill_workbook, make_workbook
from morphseq_dagster.identifiers import check_experiment, mint_embryo

PLANE_SECONDS = 0.3
"""Seconds from one plane to the next (spec 3.2)."""
_FIRST_HORIZONTAL_YEAR = "2024"
_FIELD_SHARE = 0.71
"""Share of the mosaic's long side kept for embryos: the crop to the canvas leaves 1140 of 1536 px (spec 3.5)."""


class DrawnWell:
    """One well: what does not change from frame to frame is drawn once.

    Parameters
    ----------
    plan
        The plate; `plan.wells[order]` is the well.
    order
        Number of the well in the plan.
    turn
        Number of the well in the order of imaging.
    field
        First row, first column, last row, last column, px, in which the embryo has to lie.

    Raises
    ------
    ValueError
        When the embryo does not fit the field.
    """

    def __init__(
        self,
        plan: PlatePlan,
        *,
        order: int,
        turn: int,
        planes: int,
        shape: tuple[int, int],
        field: tuple[float, float, float, float],
        level: Level,
        seed: int,
    ) -> None:
        self.well: WellPlan = plan.wells[order]
        self.plan, self.planes, self.shape, self.level, self.seed = plan, planes, shape, level, seed
        self.times_s = tuple(round(k * plan.time_step_s + turn * WELL_SECONDS, 1) for k in range(plan.times))
        self.story: WellStory | None = tell_story(
            seed,
            well=self.well,
            times_s=self.times_s,
            death_index=plan.death_index,
            planes=planes,
            um_per_px=plan.um_per_px,
            field=field,
        )
        self.light: Image = draw_background(
            seed,
            name=self.well.well,
            shape=shape,
            um_per_px=plan.um_per_px,
            level=level,
            keep_clear=None if self.story is None else self.story.keep_clear,
            edge=plan.edge_every > 0 and order % plan.edge_every == 0,
        )

    def render(self, index: int) -> EmbryoPicture | None:
        """Draw the embryo at one time; None in an empty well."""
        if self.story is None:
            return None
        return render_embryo(
            self.story.design,
            pose=self.story.poses[index],
            chorion=self.story.chorion,
            look=self.level.look,
            um_per_px=self.plan.um_per_px,
            scene_shape=self.shape,
        )

    def record_frame(
        self,
        folder: Path,
        *,
        index: int,
        picture: EmbryoPicture | None,
        places: tuple[tuple[int, int], ...] = ((0, 0),),
        tile_shape: tuple[int, int] | None = None,
    ) -> FrameTruth:
        """Write mask and plane map of one frame, cut to its mosaic, and return its record.

        Parameters
        ----------
        places
            (row, column) of every tile's first pixel in the scene.
        tile_shape
            (rows, columns) of a tile; None for the whole scene.
        """
        time_int = self.plan.first_time_int + index
        positions = np.array(places)
        top, left = (int(v) for v in positions.min(axis=0))
        bottom, right = (int(v) for v in positions.max(axis=0) + (tile_shape or self.shape))
        mask = np.zeros(self.shape, np.uint8)
        plane_map = np.full(self.shape, OUTSIDE, np.uint8)
        if picture is not None:
            rows = slice(picture.row_px, picture.row_px + picture.mask.shape[0])
            columns = slice(picture.column_px, picture.column_px + picture.mask.shape[1])
            mask[rows, columns] = picture.mask
            nearest = np.clip(np.rint(picture.height), 0, self.planes - 1).astype(np.uint8)
            plane_map[rows, columns] = np.where(picture.mask, nearest, OUTSIDE)
        mask, plane_map = mask[top:bottom, left:right], plane_map[top:bottom, left:right]
        write_map(folder, kind="masks", well=self.well.well, time_int=time_int, labels=mask)
        write_map(folder, kind="planes", well=self.well.well, time_int=time_int, labels=plane_map)
        body = None
        if mask.any():
            across, down = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
            body = (float(down[0]), float(across[0]), float(down[-1] + 1), float(across[-1] + 1))
        chorion = None
        if self.story is not None and self.story.chorion is not None:
            box = self.story.chorion.box_px
            chorion = (box[0] - top, box[1] - left, box[2] - top, box[3] - left)
        pose = None if self.story is None else self.story.poses[index]
        first = places[0]
        return FrameTruth(
            time_int=time_int,
            time_s=self.times_s[index],
            age_hpf=None if pose is None else pose.age_hpf,
            opacity=None if pose is None else pose.opacity,
            mosaic_origin_px=(top - first[0], left - first[1]),
            mosaic_shape_px=(bottom - top, right - left),
            tile_offsets_px=tuple((row - first[0], column - first[1]) for row, column in places),
            body_area_px=int(mask.sum()),
            body_box_px=body,
            chorion_box_px=chorion,
        )

    def record(self, experiment: str, *, series: str, frames: tuple[FrameTruth, ...]) -> WellTruth:
        """Record of the well; `series` is its raw folder, empty for `Frames`."""
        death = next((frame for frame in frames if frame.opacity), None)
        design = None if self.story is None else self.story.design
        return WellTruth(
            well=self.well.well,
            series=series,
            kind=self.well.kind,
            embryo_id=None if design is None else mint_embryo(experiment, well=self.well.well, number=1),
            has_chorion=design is not None and self.well.has_chorion,
            death_time_int=None if death is None else death.time_int,
            death_time_s=None if death is None else death.time_s,
            head_plane=None if design is None else design.head_plane,
            trunk_plane=None if design is None else design.trunk_plane,
            tail_plane=None if design is None else design.tail_plane,
            frames=frames,
        )


def make_plate(
    data_root: Path,
    *,
    truth_folder: Path,
    experiment: str = "20240418_demo",
    difficulty: Difficulty = "middle",
    plan: PlatePlan = DEMO_PLATE,
    seed: int = 20240418,
    on_progress: Callable[[int, int], None] | None = None,
) -> PlateTruth:
    """Make a Keyence-like experiment with workbook and truth.

    Writes `raw_image_data/Keyence/{experiment}/` and `metadata/well_metadata/{experiment}_well_metadata.xlsx` under
    `data_root`, and the truth into `truth_folder`. Tiles lie side by side for experiments from 2024 on and one
    above the other before (spec 3.5).

    Parameters
    ----------
    truth_folder
        Folder for the truth, made here; not among the data root's inputs.
    on_progress
        Called with (frames done, frames in all) after every well and time.

    Raises
    ------
    PermanentError
        When the experiment id is refused, or the raw folder or foreign files are where the plate goes.
    ValueError
        When an embryo does not fit the field.
    """
    check_experiment(experiment)
    horizontal = experiment[:4] >= _FIRST_HORIZONTAL_YEAR
    stage = make_stage(
        tile_shape=plan.tile_shape_px, tiles=plan.tiles, along=1 if horizontal else 0, overlap=plan.overlap
    )
    places = find_places(data_root, source="Keyence", experiment=experiment, truth_folder=truth_folder)
    book = make_workbook(fill_workbook(plan.wells))
    travelled = _order_wells(plan.wells)
    done, total = 0, len(plan.wells) * plan.times
    wells = []
    with publish_plate(places, experiment=experiment, workbook=book) as part:
        for order, well in enumerate(plan.wells):
            turn = travelled.index(well.well)
            drawn = DrawnWell(
                plan,
                order=order,
                turn=turn,
                planes=plan.planes,
                shape=stage.scene_shape,
                field=_inner_field(stage),
                level=LEVELS[difficulty],
                seed=seed,
            )
            camera = _WellCamera(drawn, turn=turn, plan=plan, stage=stage)
            folder = part.raw / camera.series
            folder.mkdir()
            (folder / f"_{well.well}").touch()
            frames = []
            for index in range(plan.times):
                frames.append(camera.image_frame(index, raw=folder, truth=part.truth))
                done += 1
                if on_progress is not None:
                    on_progress(done, total)
            wells.append(drawn.record(experiment, series=camera.series, frames=tuple(frames)))
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
        write_truth(part.truth, truth=truth)
    return truth


class _WellCamera:
    """One well under the microscope."""

    def __init__(self, drawn: DrawnWell, *, turn: int, plan: PlatePlan, stage: Stage) -> None:
        self.drawn, self.plan, self.stage = drawn, plan, stage
        self.series = f"XY{turn + 1:02d}"
        # The bottom of the well lies one plane below the middle of the stack.
        bottom = float(max((plan.planes - 1) // 2 - 1, 0))
        self._backgrounds = blur_background(drawn.light, planes=plan.planes, sharpest=bottom, level=drawn.level)
        self._shadings = [
            shade_tile(drawn.seed, name=f"{drawn.well.well}/{tile}", tile_shape=stage.tile_shape, level=drawn.level)
            for tile in range(stage.tiles)
        ]

    def image_frame(self, index: int, *, raw: Path, truth: Path) -> FrameTruth:
        """Take all tiles and planes of one time and record what is true about them."""
        drawn, level = self.drawn, self.drawn.level
        time_int = self.plan.first_time_int + index
        name = f"{drawn.well.well}/{time_int}"
        places = self.stage.place_tiles(drawn.seed, name=name, level=level)
        picture = drawn.render(index)
        folder = raw / f"T{time_int:04d}"
        folder.mkdir()
        noise = open_stream(drawn.seed, name=f"{name}/noise")
        for plane in range(self.plan.planes):
            seen = take_plane(self._backgrounds[plane], picture=picture, plane=float(plane), level=level)
            for tile, (row, column) in enumerate(places):
                pixels = expose(
                    seen[row : row + self.stage.tile_shape[0], column : column + self.stage.tile_shape[1]],
                    shading=self._shadings[tile],
                    noise_sd=level.noise_sd,
                    random=noise,
                    bit_depth=self.plan.bit_depth,
                )
                write_keyence_tiff(
                    folder / f"embryo__{self.series}_{tile + 1:05d}_Z{plane + 1:03d}_CH1.tif",
                    pixels=pixels,
                    um_per_px=self.plan.um_per_px,
                    time_s=drawn.times_s[index] + (tile * self.plan.planes + plane) * PLANE_SECONDS,
                )
        return drawn.record_frame(truth, index=index, picture=picture, places=places, tile_shape=self.stage.tile_shape)


def _inner_field(stage: Stage) -> tuple[float, float, float, float]:
    """Part of the scene that the tiles cover at any jitter and that no crop removes."""
    shape = stage.scene_shape
    margin = [34.0, 34.0]
    if stage.tiles > 1:
        margin[stage.along] = (1 - _FIELD_SHARE) / 2 * shape[stage.along] + 6
    return margin[0], margin[1], shape[0] - margin[0], shape[1] - margin[1]


def _order_wells(wells: tuple[WellPlan, ...]) -> list[str]:
    """Wells as the stage travels: every other row backwards, so raw folders are not numbered like wells."""

    def travel(name: str) -> tuple[str, int]:
        column = int(name[1:])
        return name[0], column if (ord(name[0]) - ord("A")) % 2 == 0 else -column

    return sorted((well.well for well in wells), key=travel)
