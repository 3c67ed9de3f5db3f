"""One well of a demo plate as its makers need it: its background, its embryo over time, and what is true about them.

What lies where comes from `story`, how it looks from `scene` and `optics`; `plate` takes the pictures.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from morphseq_dagster.demo.levels import Level
from morphseq_dagster.demo.microscope import Image
from morphseq_dagster.demo.optics import EmbryoPicture, render_embryo
from morphseq_dagster.demo.plan import PlatePlan, WellPlan
from morphseq_dagster.demo.scene import draw_background
from morphseq_dagster.demo.story import WELL_SECONDS, WellStory, tell_story
from morphseq_dagster.demo.truth import OUTSIDE, FrameTruth, WellTruth, write_map
from morphseq_dagster.identifiers import mint_embryo


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
