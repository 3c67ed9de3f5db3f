"""Shape of one synthetic zebrafish embryo: yolk, body axis, head, tail, chorion, and how they grow.

Lengths follow Kimmel et al. 1995 (stages of zebrafish development at 28.5 C): chorion about 1.2 mm across, yolk 0.6 to
0.7 mm, body length 1.9 mm at 24 hpf, 2.5 mm at 30 hpf, 3.1 mm at 48 hpf. The drawing is a side view, and it is meant
for 12 to 48 hpf; ages outside 10 to 48 hpf are refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
import numpy.typing as npt

from morphseq_dagster.demo.randomness import open_stream

Floats = npt.NDArray[np.float64]

YOUNGEST_HPF, OLDEST_HPF = 10.0, 48.0
_AGES_HPF = (10.0, 16.0, 20.0, 24.0, 30.0, 36.0, 48.0)
_LENGTHS_UM = (1050.0, 1400.0, 1650.0, 1900.0, 2450.0, 2750.0, 3100.0)
_YOLK_UM = (345.0, 335.0, 325.0, 315.0, 295.0, 280.0, 250.0)
_GIRTH = (0.68, 0.80, 0.90, 1.0, 1.06, 1.10, 1.14)
_WRAP_RAD = (2.9, 3.3, 3.0, 2.5, 1.9, 1.5, 1.2)
_STEP_UM = 6.0
HEAD_UM = 340.0
"""Length of the head along the midline."""
TAIL_SHARE = 0.62
"""Share of the body length behind which the body counts as tail."""


@dataclass(frozen=True)
class EmbryoDesign:
    """What is drawn once for an embryo and stays with it.

    Attributes
    ----------
    mirrored
        Whether the body runs anticlockwise in the picture.
    girth
        Factor on the body's half-width, near 1.
    head_plane, trunk_plane, tail_plane
        Focal plane at which each part is sharpest, in plane steps from the first plane; yolk and trunk share one.
    """

    seed: int
    name: str
    has_chorion: bool
    mirrored: bool
    girth: float
    chorion_um: float
    tail_bend_per_um: float
    head_plane: float
    trunk_plane: float
    tail_plane: float


@dataclass(frozen=True)
class Midline:
    """Body axis in the embryo's own frame: origin at the yolk's centre, um, (row, column).

    Attributes
    ----------
    points_um, tangents
        `(N, 2)` positions and unit directions from snout to tail tip.
    arc_um
        `(N,)` arc length at each point.
    dorsal_um, ventral_um
        `(N,)` half-widths away from and towards the yolk.
    """

    points_um: Floats
    tangents: Floats
    arc_um: Floats
    dorsal_um: Floats
    ventral_um: Floats
    yolk_um: float
    age_hpf: float

    @property
    def length_um(self) -> float:
        """Body length along the midline."""
        return float(self.arc_um[-1])


@dataclass(frozen=True)
class Pose:
    """Where the embryo lies at one time: its yolk's centre in the scene and its rotation about that.

    Attributes
    ----------
    age_hpf
        Developmental age; it stops at death.
    opacity
        0 alive, 1 dead and opaque.
    """

    row_px: float
    column_px: float
    rotation_rad: float
    age_hpf: float
    opacity: float


def design_embryo(seed: int, *, name: str, has_chorion: bool, planes: int) -> EmbryoDesign:
    """Draw an embryo; head, trunk and tail are sharpest one focal plane apart, all within the stack."""
    random = open_stream(seed, name=f"{name}/design")
    middle = (planes - 1) / 2 + (int(random.integers(-1, 2)) if planes >= 5 else 0)
    slope = float(random.choice([-1.0, 1.0]))
    heights = np.rint([middle + slope, middle, middle - slope]) + random.uniform(-0.18, 0.18, 3)
    head, trunk, tail = np.clip(heights, 0, planes - 1)
    return EmbryoDesign(
        seed=seed,
        name=name,
        has_chorion=has_chorion,
        mirrored=bool(random.integers(2)),
        girth=float(random.uniform(0.94, 1.06)),
        chorion_um=float(random.uniform(585, 625)),
        tail_bend_per_um=float(random.uniform(-0.15, 0.25)) / 1000,
        head_plane=float(head),
        trunk_plane=float(trunk),
        tail_plane=float(tail),
    )


@lru_cache(maxsize=256)
def shape_midline(design: EmbryoDesign, *, age_hpf: float) -> Midline:
    """Body axis and half-widths at an age.

    The axis lies on the yolk for an arc that shortens with age; behind it the tail follows the chorion's wall, or
    stretches where there is no chorion.

    Raises
    ------
    ValueError
        When `age_hpf` is outside 10 to 48.
    """
    if not YOUNGEST_HPF <= age_hpf <= OLDEST_HPF:
        raise ValueError(f"embryos can be drawn from {YOUNGEST_HPF} to {OLDEST_HPF} hpf, not at {age_hpf}")
    length = float(np.interp(age_hpf, _AGES_HPF, _LENGTHS_UM))
    yolk = float(np.interp(age_hpf, _AGES_HPF, _YOLK_UM))
    girth = design.girth * float(np.interp(age_hpf, _AGES_HPF, _GIRTH))
    wrap = float(np.interp(age_hpf, _AGES_HPF, _WRAP_RAD))
    seat = yolk + 62 * girth
    arc = np.linspace(0.0, length, round(length / _STEP_UM) + 1)
    free = np.clip((arc - wrap * seat) / 420, 0, 1)
    # In a chorion the free tail runs along the wall, bent between the yolk's and the chorion's curvature.
    end = 1 / (0.73 * design.chorion_um) if design.has_chorion else design.tail_bend_per_um
    bend = (1 - free) / seat + free * end
    heading = np.concatenate([[0.0], np.cumsum(0.5 * (bend[1:] + bend[:-1]) * np.diff(arc))])
    tangents = np.stack([np.sin(heading), np.cos(heading)], axis=1)
    steps = 0.5 * (tangents[1:] + tangents[:-1]) * np.diff(arc)[:, None]
    # Starting above the yolk and heading right, a positive bend turns downwards, round the yolk.
    points = np.array([-seat, 0.0]) + np.concatenate([np.zeros((1, 2)), np.cumsum(steps, axis=0)])
    dorsal, ventral = _half_widths(arc, length=length, girth=girth, age_hpf=age_hpf, leaves_yolk=wrap * seat)
    if design.mirrored:
        points, tangents = points * [1, -1], tangents * [1, -1]
    for array in (points, tangents, arc, dorsal, ventral):
        array.setflags(write=False)
    return Midline(points, tangents, arc, dorsal, ventral, yolk, age_hpf)


def _half_widths(
    arc: Floats, *, length: float, girth: float, age_hpf: float, leaves_yolk: float
) -> tuple[Floats, Floats]:
    share = arc / length
    trunk = np.interp(share, [0.0, 0.12, 0.2, 0.45, 0.65, 0.9, 1.0], [108, 108, 88, 84, 70, 36, 22])
    snout = np.sqrt(np.clip(1 - np.clip(1 - arc / 130, 0, 1) ** 2, 0, 1))
    # Fore-, mid- and hindbrain bulge.
    brain = 1 + 0.07 * np.cos(2 * np.pi * arc / 150) * (arc < HEAD_UM)
    dorsal = girth * trunk * snout * brain
    extension = 38 * np.clip((age_hpf - 17) / 6, 0, 1) * np.exp(-(((arc - leaves_yolk - 130) / 190) ** 2))
    return dorsal, girth * trunk * snout + extension


def outline_um(midline: Midline) -> Floats:
    """Points on the body's outline and the yolk's rim, `(N, 2)` (row, column) um in the embryo's frame."""
    normals = np.stack([-midline.tangents[:, 1], midline.tangents[:, 0]], axis=1)
    widest = np.maximum(midline.dorsal_um, midline.ventral_um)[:, None]
    turn = np.linspace(0, 2 * np.pi, 90, endpoint=False)
    yolk = midline.yolk_um * np.stack([np.sin(turn), np.cos(turn)], axis=1)
    return np.concatenate([midline.points_um + widest * normals, midline.points_um - widest * normals, yolk])


def turn_points(points: Floats, *, rotation_rad: float) -> Floats:
    """Rotate `(N, 2)` (row, column) points from +column towards +row."""
    sine, cosine = np.sin(rotation_rad), np.cos(rotation_rad)
    rows, columns = points[:, 0], points[:, 1]
    return np.stack([cosine * rows + sine * columns, cosine * columns - sine * rows], axis=1)


def chorion_centre_um(design: EmbryoDesign, *, first_age_hpf: float, last_age_hpf: float) -> Floats:
    """Centre of the chorion in the embryo's frame: the middle of what it has to hold, `(2,)` (row, column)."""
    held = np.concatenate([outline_um(shape_midline(design, age_hpf=age)) for age in (first_age_hpf, last_age_hpf)])
    (column, row), _ = cv2.minEnclosingCircle(held.astype(np.float32)[:, ::-1])
    return np.array([row, column])
