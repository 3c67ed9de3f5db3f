"""Picture of one embryo in transmitted light: absorbance, silhouette and height of every pixel.

The light that reaches the camera is the background (`scene`) times `exp(-absorbance)`, so parts that overlap darken
each other as they do under the microscope. Defocus and noise are made in `microscope`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
import numpy.typing as npt

from morphseq_dagster.demo.embryo import (
    HEAD_UM,
    TAIL_SHARE,
    EmbryoDesign,
    Midline,
    Pose,
    chorion_centre_um,
    outline_um,
    shape_midline,
    turn_points,
)
from morphseq_dagster.demo.randomness import open_stream

Image = npt.NDArray[np.float32]
Floats = npt.NDArray[np.floating]
Box = tuple[float, float, float, float]

_MARGIN_UM = 110.0
_HALO_UM = 45.0
_TEXTURE_PX = 512


@dataclass(frozen=True)
class ChorionPlace:
    """Chorion in the scene: centre (row, column) and radius in px."""

    row_px: float
    column_px: float
    radius_px: float

    @property
    def box_px(self) -> Box:
        """Box around the chorion: first row, first column, last row, last column, px."""
        return (
            self.row_px - self.radius_px,
            self.column_px - self.radius_px,
            self.row_px + self.radius_px,
            self.column_px + self.radius_px,
        )


@dataclass(frozen=True)
class EmbryoPicture:
    """Rendered cut-out of the scene; all arrays are `(h, w)`.

    Attributes
    ----------
    absorbance
        float32, natural logarithm of background over transmitted light, >= 0 but for thin bright lines.
    mask
        bool, silhouette of body and yolk, without chorion.
    height
        float32, focal plane at which the pixel is sharpest, in plane steps.
    """

    row_px: int
    column_px: int
    absorbance: Image
    mask: npt.NDArray[np.bool_]
    height: Image


@dataclass(frozen=True)
class EmbryoLook:
    """How strongly an embryo shows.

    Attributes
    ----------
    absorbance
        Factor on the absorbance of yolk and body, 1 = as dark as the real time-lapse.
    grain
        Standard deviation of the fine texture, in absorbance.
    chorion
        Factor on the absorbance of the chorion and of what it encloses.
    """

    absorbance: float
    grain: float
    chorion: float


def place_chorion(
    design: EmbryoDesign, *, base: Pose, first_age_hpf: float, last_age_hpf: float, um_per_px: float
) -> ChorionPlace | None:
    """Lay the chorion round an embryo that lies as `base`; None without a chorion."""
    if not design.has_chorion:
        return None
    centre = chorion_centre_um(design, first_age_hpf=first_age_hpf, last_age_hpf=last_age_hpf)
    row, column = turn_points(centre[None, :], rotation_rad=base.rotation_rad)[0] / um_per_px
    return ChorionPlace(base.row_px + row, base.column_px + column, design.chorion_um / um_per_px)


def render_embryo(
    design: EmbryoDesign,
    *,
    pose: Pose,
    chorion: ChorionPlace | None,
    look: EmbryoLook,
    um_per_px: float,
    scene_shape: tuple[int, int],
) -> EmbryoPicture:
    """Draw one embryo at one time as a cut-out of the scene of `scene_shape` (rows, columns)."""
    midline = shape_midline(design, age_hpf=pose.age_hpf)
    top, left, bottom, right = _cut_out(midline, pose=pose, chorion=chorion, um_per_px=um_per_px)
    top, left = max(top, 0), max(left, 0)
    bottom, right = min(bottom, scene_shape[0]), min(right, scene_shape[1])
    rows, columns = np.mgrid[top:bottom, left:right].astype(np.float32)
    own = np.stack([(rows - pose.row_px).ravel(), (columns - pose.column_px).ravel()], axis=1) * um_per_px
    own = turn_points(own.astype(np.float64), rotation_rad=-pose.rotation_rad)
    shape = rows.shape
    y, x = (own[:, k].reshape(shape).astype(np.float32) for k in (0, 1))
    along, across = _body_coordinates(midline, y=y, x=x, mirrored=design.mirrored, um_per_px=um_per_px)
    drawing = _Drawing(design, midline, pose, look, um_per_px)
    body = _draw_body(drawing, along=along, across=across)
    yolk = _draw_yolk(drawing, y=y, x=x)
    absorbance = body.absorbance + yolk.absorbance
    if chorion is not None:
        absorbance += _draw_chorion(drawing, chorion, rows=rows, columns=columns)
    in_yolk, in_body = yolk.cover >= 0.5, body.cover >= 0.5
    # Heights reach a little beyond the outline, so that the outline of a part blurs with the part.
    near = body.inside_um > -_HALO_UM
    height = np.full(shape, design.trunk_plane, np.float32)
    height[near & (along < HEAD_UM)] = design.head_plane
    height[near & (along > TAIL_SHARE * midline.length_um)] = design.tail_plane
    height[in_yolk] = design.trunk_plane
    return EmbryoPicture(top, left, absorbance, in_yolk | in_body, height)


def _cut_out(
    midline: Midline, *, pose: Pose, chorion: ChorionPlace | None, um_per_px: float
) -> tuple[int, int, int, int]:
    points = turn_points(outline_um(midline), rotation_rad=pose.rotation_rad) / um_per_px
    points = points + np.array([pose.row_px, pose.column_px])
    low, high = points.min(axis=0), points.max(axis=0)
    if chorion is not None:
        low, high = np.minimum(low, chorion.box_px[:2]), np.maximum(high, chorion.box_px[2:])
    margin = _MARGIN_UM / um_per_px
    low, high = np.floor(low - margin).astype(int), np.ceil(high + margin).astype(int)
    return int(low[0]), int(low[1]), int(high[0]), int(high[1])


def _body_coordinates(midline: Midline, *, y: Image, x: Image, mirrored: bool, um_per_px: float) -> tuple[Image, Image]:
    """Arc length and signed distance (ventral positive) of every pixel from the body axis, um."""
    # Every midline point marks its nearest pixel; the distance transform then hands each pixel its nearest mark.
    first = np.array([y[0, 0], x[0, 0]], np.float64)
    down = np.array([y[1, 0] - y[0, 0], x[1, 0] - x[0, 0]], np.float64)
    right = np.array([y[0, 1] - y[0, 0], x[0, 1] - x[0, 0]], np.float64)
    grid = np.linalg.solve(np.stack([down, right], axis=1), (midline.points_um - first).T).T
    at = np.clip(np.rint(grid).astype(int), 0, np.array(y.shape) - 1)
    free = np.ones(y.shape, np.uint8)
    free[at[:, 0], at[:, 1]] = 0
    _, labels = cv2.distanceTransformWithLabels(free, cv2.DIST_L2, cv2.DIST_MASK_5, labelType=cv2.DIST_LABEL_PIXEL)
    index_of = np.zeros(int(labels.max()) + 1, np.intp)
    index_of[labels[at[:, 0], at[:, 1]]] = np.arange(len(at))
    index = index_of[labels]
    tangent = midline.tangents.astype(np.float32)[index]
    point = midline.points_um.astype(np.float32)[index]
    dy, dx = y - point[..., 0], x - point[..., 1]
    forward = dy * tangent[..., 0] + dx * tangent[..., 1]
    # Between two points the axis is straight; beyond the ends the whole distance counts as across.
    last = len(midline.arc_um) - 1
    beyond = np.where(index == 0, np.minimum(forward, 0), 0) + np.where(index == last, np.maximum(forward, 0), 0)
    along = midline.arc_um.astype(np.float32)[index] + (forward - beyond)
    side = dy * tangent[..., 1] - dx * tangent[..., 0]
    side = -side if mirrored else side
    across = np.copysign(np.hypot(side, beyond), side).astype(np.float32)
    return along.astype(np.float32), across


@dataclass(frozen=True)
class _Part:
    absorbance: Image
    cover: Image
    inside_um: Image


@dataclass(frozen=True)
class _Drawing:
    """One embryo at one time, and how strongly and finely its parts are drawn."""

    design: EmbryoDesign
    midline: Midline
    pose: Pose
    look: EmbryoLook
    um_per_px: float

    def fill(self, inside: Floats, *, base: Floats, opaque: Floats, grain: Image) -> _Part:
        """Fill an outline with what a living part absorbs, an opaque one as far as it is dead, and its texture."""
        cover = np.clip(0.5 + inside / self.um_per_px, 0, 1)
        alive = 1 - self.pose.opacity
        soft = self.look.absorbance * (base + self.pose.opacity * opaque) + (0.2 + 0.8 * alive) * grain
        return _Part((soft * cover).astype(np.float32), cover.astype(np.float32), inside.astype(np.float32))


def _draw_body(drawing: _Drawing, *, along: Image, across: Image) -> _Part:
    midline, um_per_px, alive = drawing.midline, drawing.um_per_px, 1 - drawing.pose.opacity
    half = np.where(
        across < 0,
        np.interp(along, midline.arc_um, midline.dorsal_um),
        np.interp(along, midline.arc_um, midline.ventral_um),
    ).astype(np.float32)
    inside = half - np.abs(across)
    thickness = np.sqrt(np.clip(inside / np.maximum(half, 1), 0, 1))
    rim = np.exp(-((inside - 0.8 * um_per_px) ** 2) / (2 * (1.6 * um_per_px) ** 2))
    relative = across / np.maximum(half, 1)
    trunk = np.clip((along - HEAD_UM) / 120, 0, 1) * (thickness > 0)
    somites = np.cos(2 * np.pi * (along + 0.55 * np.abs(across)) / 62.0) ** 3
    somites = somites * trunk * np.clip(1.1 - along / midline.length_um, 0, 0.7)
    notochord = np.exp(-(((np.abs(relative - 0.05) - 0.26) / 0.09) ** 2)) * trunk
    structure = 0.10 * somites + 0.10 * notochord + _draw_head(along, across, age_hpf=drawing.pose.age_hpf)
    grain = _read_texture(
        drawing.design, part="body", row=across / um_per_px, column=along / um_per_px, fine=drawing.look.grain
    )
    base = 0.11 + 0.07 * thickness + 0.34 * (0.3 + 0.7 * alive) * rim + (0.12 + 0.88 * alive) * structure
    return drawing.fill(inside, base=base, opaque=0.55 + 0.65 * thickness, grain=grain)


def _draw_head(along: Image, across: Image, *, age_hpf: float) -> Image:
    """Eye (pigmented from 24 hpf on) and ear."""
    radius = float(np.interp(age_hpf, [12, 24, 48], [42, 62, 80]))
    from_eye = np.hypot(along - 118, across + 8)
    ring = np.exp(-(((from_eye - radius) / 9) ** 2))
    lens = np.exp(-(((from_eye - 0.42 * radius) / 7) ** 2))
    pigment = float(np.clip((age_hpf - 23) / 14, 0, 1)) * (from_eye < radius)
    from_ear = np.hypot(along - 300, across + 30)
    ear = np.exp(-(((from_ear - 26) / 7) ** 2))
    return np.asarray(0.22 * ring + 0.13 * lens + 0.8 * pigment + 0.14 * ear, np.float32)


def _draw_yolk(drawing: _Drawing, *, y: Image, x: Image) -> _Part:
    design, midline, um_per_px = drawing.design, drawing.midline, drawing.um_per_px
    random = open_stream(design.seed, name=f"{design.name}/yolk")
    turn = np.arctan2(y, x)
    phases = random.uniform(0, 2 * np.pi, 2)
    radius = midline.yolk_um * (1 + 0.016 * np.cos(2 * turn + phases[0]) + 0.008 * np.cos(3 * turn + phases[1]))
    inside = radius - np.hypot(y, x)
    thickness = np.sqrt(np.clip(inside / midline.yolk_um, 0, 1))
    # The yolk is a ball lens: light near its rim leaves the objective, hence the wide dark border.
    border = np.exp(-np.clip(inside, 0, None) / 42) * np.clip(0.4 + inside / 30, 0, 1)
    grain = _read_texture(design, part="yolk", row=y / um_per_px, column=x / um_per_px, fine=drawing.look.grain)
    tilt = 0.06 * np.cos(turn - phases[0]) * np.hypot(y, x) / midline.yolk_um
    base = 0.20 + 0.06 * thickness + 0.85 * (0.3 + 0.7 * (1 - drawing.pose.opacity)) * border + tilt
    return drawing.fill(inside, base=base, opaque=0.7 + 0.6 * thickness, grain=grain)


def _draw_chorion(drawing: _Drawing, chorion: ChorionPlace, *, rows: Image, columns: Image) -> Image:
    design, um_per_px, opacity = drawing.design, drawing.um_per_px, drawing.pose.opacity
    random = open_stream(design.seed, name=f"{design.name}/chorion")
    dy, dx = rows - chorion.row_px, columns - chorion.column_px
    turn = np.arctan2(dy, dx)
    phase = float(random.uniform(0, 2 * np.pi))
    radius = chorion.radius_px * (1 + 0.008 * np.cos(2 * turn + phase))
    inside = (radius - np.hypot(dy, dx)) * um_per_px
    enclosed = np.clip(0.5 + inside / um_per_px, 0, 1)
    share = np.clip(1 - inside / (chorion.radius_px * um_per_px), 0, 1)
    width = max(9.0, 0.9 * um_per_px)
    line = 0.52 * np.exp(-(((inside - 8) / width) ** 2)) + 0.13 * np.exp(-np.clip(inside, 0, None) / 45) * enclosed
    bright = -0.07 * np.exp(-(((inside - 34) / width) ** 2))
    fluid = enclosed * (0.095 + 0.05 * share**4) * (1 + 0.25 * np.cos(turn - phase) * share)
    drawn = drawing.look.chorion * (line + bright + fluid)
    if opacity > 0:
        # Content of a burst embryo clouds the fluid.
        cloud = _read_texture(design, part="cloud", row=dy, column=dx, fine=0.02)
        drawn = drawn + opacity * enclosed * (0.16 + 2.2 * cloud)
    return np.asarray(drawn, np.float32)


def _read_texture(design: EmbryoDesign, *, part: str, row: Image, column: Image, fine: float) -> Image:
    """Sample a texture that sticks to the embryo; standard deviation about `fine` (fine) plus a coarser part."""
    texture = _make_texture(design.seed, name=f"{design.name}/{part}")
    return fine * cv2.remap(
        texture,
        (column.astype(np.float32) % _TEXTURE_PX),
        (row.astype(np.float32) % _TEXTURE_PX),
        interpolation=cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_WRAP,
    )


@lru_cache(maxsize=64)
def _make_texture(seed: int, *, name: str) -> Image:
    random = open_stream(seed, name=f"{name}/texture")
    field = random.standard_normal((_TEXTURE_PX, _TEXTURE_PX), np.float32)
    fine = _scaled_blur(field, sigma=0.75)
    granules = _scaled_blur(random.standard_normal((_TEXTURE_PX, _TEXTURE_PX), np.float32), sigma=1.6)
    clouds = _scaled_blur(random.standard_normal((_TEXTURE_PX, _TEXTURE_PX), np.float32), sigma=6.0)
    texture = np.asarray(fine + 0.8 * granules + 0.7 * clouds, np.float32)
    texture.setflags(write=False)
    return texture


def _scaled_blur(field: Image, *, sigma: float) -> Image:
    """Blur a field that repeats at its borders, so that wrapped coordinates meet no seam."""
    rim = 32
    padded = np.pad(field, rim, mode="wrap")
    blurred = cv2.GaussianBlur(padded, (0, 0), sigma)[rim:-rim, rim:-rim]
    return np.asarray(blurred / blurred.std(), np.float32)
