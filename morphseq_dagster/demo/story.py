"""What happens in one well over time: where its embryo lies, how it grows, moves and dies."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from morphseq_dagster.demo.embryo import EmbryoDesign, Pose, design_embryo, outline_um, shape_midline, turn_points
from morphseq_dagster.demo.optics import ChorionPlace, place_chorion
from morphseq_dagster.demo.plan import WellPlan
from morphseq_dagster.demo.randomness import open_stream

WELL_SECONDS = 12.3
"""Seconds from one well to the next (spec 3.2)."""
DYING_OPACITY = 0.65
"""Opacity in the frame of death; from the next frame on it is 1."""


@dataclass(frozen=True)
class WellStory:
    """The embryo of one well and its pose at every time.

    Attributes
    ----------
    keep_clear
        (row, column, radius), px, around everything the embryo covers.
    """

    design: EmbryoDesign
    chorion: ChorionPlace | None
    poses: tuple[Pose, ...]
    keep_clear: tuple[float, float, float]


def tell_story(
    seed: int,
    *,
    well: WellPlan,
    times_s: tuple[float, ...],
    death_index: int,
    planes: int,
    um_per_px: float,
    field: tuple[float, float, float, float],
) -> WellStory | None:
    """Draw the embryo of a well and follow it; None for an empty well.

    Ages follow the developmental rate at the well's temperature, `0.055 T - 0.57` hpf per hour (spec, science,
    finding 2), and stop at death, as does movement.

    Parameters
    ----------
    death_index
        Frame in which a dying embryo turns opaque, at least 1.
    field
        First row, first column, last row, last column, px, in which the embryo has to lie.

    Raises
    ------
    ValueError
        When the embryo does not fit the field.
    """
    if well.kind == "empty":
        return None
    dies = death_index if well.kind == "dying" else len(times_s)
    design = design_embryo(seed, name=well.well, has_chorion=well.has_chorion, planes=planes)
    rate = 0.055 * well.temperature - 0.57
    last_alive = dies - 1
    ages = [well.start_age_hpf + rate * (t - times_s[0]) / 3600 for t in times_s]
    base = _find_base(design, seed=seed, well=well, ages=(ages[0], ages[last_alive]), um_per_px=um_per_px, field=field)
    chorion = place_chorion(
        design, base=base, first_age_hpf=ages[0], last_age_hpf=ages[last_alive], um_per_px=um_per_px
    )
    random = open_stream(seed, name=f"{well.well}/movement")
    reach = (5.0 if well.has_chorion else 11.0) / um_per_px
    poses: list[Pose] = []
    for index, age in enumerate(ages):
        shift = reach * np.clip(random.standard_normal(2), -2, 2)
        turn = 0.015 * float(np.clip(random.standard_normal(), -2, 2))
        if index >= dies:
            poses.append(replace(poses[last_alive], opacity=DYING_OPACITY if index == dies else 1.0))
            continue
        row, column = base.row_px + float(shift[0]), base.column_px + float(shift[1])
        poses.append(Pose(row, column, base.rotation_rad + turn, age, 0.0))
    return WellStory(design, chorion, tuple(poses), _surround(design, poses, chorion=chorion, um_per_px=um_per_px))


def _find_base(
    design: EmbryoDesign,
    *,
    seed: int,
    well: WellPlan,
    ages: tuple[float, float],
    um_per_px: float,
    field: tuple[float, float, float, float],
) -> Pose:
    random = open_stream(seed, name=f"{well.well}/place")
    held = np.concatenate([outline_um(shape_midline(design, age_hpf=age)) for age in ages])
    rotation = float(random.uniform(0, 2 * np.pi))
    if not design.has_chorion:
        # A stretched animal lies along the strip of tiles, as it must to be imaged whole.
        _, axes = np.linalg.eigh(np.cov(held.T))
        lie = float(np.arctan2(axes[0, -1], axes[1, -1]))
        along_columns = field[3] - field[1] >= field[2] - field[0]
        rotation = (0.0 if along_columns else np.pi / 2) - lie
        rotation += float(random.choice([0.0, np.pi])) + float(random.uniform(-0.3, 0.3))
    points = turn_points(held, rotation_rad=rotation) / um_per_px
    low, high = points.min(axis=0), points.max(axis=0)
    lying = Pose(0, 0, rotation, ages[0], 0)
    chorion = place_chorion(design, base=lying, first_age_hpf=ages[0], last_age_hpf=ages[1], um_per_px=um_per_px)
    if chorion is not None:
        low, high = np.minimum(low, chorion.box_px[:2]), np.maximum(high, chorion.box_px[2:])
    start, stop = np.array(field[:2]) - low, np.array(field[2:]) - high
    if (stop < start).any():
        need = [round(float(v)) for v in high - low]
        raise ValueError(f"well {well.well}: the embryo needs {need} px and the field has less; enlarge the tiles")
    row, column = random.uniform(start, stop)
    return Pose(float(row), float(column), rotation, ages[0], 0.0)


def _surround(
    design: EmbryoDesign, poses: list[Pose], *, chorion: ChorionPlace | None, um_per_px: float
) -> tuple[float, float, float]:
    if chorion is not None:
        return chorion.row_px, chorion.column_px, chorion.radius_px + 6
    clouds = [
        turn_points(outline_um(shape_midline(design, age_hpf=pose.age_hpf)), rotation_rad=pose.rotation_rad) / um_per_px
        + [pose.row_px, pose.column_px]
        for pose in poses
    ]
    points = np.concatenate(clouds)
    middle = (points.min(axis=0) + points.max(axis=0)) / 2
    away = points - middle
    return float(middle[0]), float(middle[1]), float(np.hypot(away[:, 0], away[:, 1]).max()) + 8
