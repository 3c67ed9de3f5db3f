"""The synthetic Keyence microscope: stage, focal planes, camera, and its TIFF files.

The file form is that of spec 3.2: an uncompressed grey TIFF whose bytes hold a text block between `<Data>` and
`</Data>` with tags written like `<ShootingDateTime Type="System.Int64">`. `Width` and `Height` occur three times:
camera, picture in pixels, picture in nanometres.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import numpy.typing as npt
import tifffile

from morphseq_dagster.demo.levels import Level
from morphseq_dagster.demo.optics import EmbryoPicture
from morphseq_dagster.demo.randomness import open_stream

Image = npt.NDArray[np.float32]
Pixels = npt.NDArray[np.uint8] | npt.NDArray[np.uint16]
BitDepth = Literal[8, 16]

_TICKS_PER_S = 10_000_000
_FIRST_TICK = -8_580_000_000_000_000_000
"""Real files carry negative shooting times of this size: only differences mean anything (spec 3.2)."""
_PADDING_PX = 24
_SEAM_PX = 1.2


@dataclass(frozen=True)
class Stage:
    """Geometry of the row of tiles.

    Attributes
    ----------
    pitch_px
        Nominal step from tile to tile; 70 % of the tile along the row, as measured on real plates (spec 3.2).
    along
        Axis of the row of tiles: 1 horizontal, 0 vertical.
    """

    tile_shape: tuple[int, int]
    tiles: int
    pitch_px: int
    along: Literal[0, 1]

    @property
    def scene_shape(self) -> tuple[int, int]:
        """(rows, columns) of the scene that holds every tile at any jitter."""
        shape = [self.tile_shape[0] + 2 * _PADDING_PX, self.tile_shape[1] + 2 * _PADDING_PX]
        shape[self.along] += self.pitch_px * (self.tiles - 1)
        return shape[0], shape[1]

    def place_tiles(self, seed: int, *, name: str, level: Level) -> tuple[tuple[int, int], ...]:
        """Scene positions of the tiles' first pixels: the nominal row plus the stage's error, whole pixels."""
        random = open_stream(seed, name=f"{name}/stage")
        drift = int(open_stream(seed, name="stage").integers(-1, 2))
        places = []
        for number in range(self.tiles):
            along, across = level.jitter_along_px, level.jitter_across_px
            moved = [0, 0]
            moved[self.along] = number * (self.pitch_px + drift) + int(random.integers(-along, along + 1))
            # Half the range for every tile keeps the difference of two tiles within the stated range.
            moved[1 - self.along] = int(random.integers(-(across // 2), across - across // 2 + 1))
            places.append((moved[0] + _PADDING_PX, moved[1] + _PADDING_PX))
        return tuple(places)


def make_stage(*, tile_shape: tuple[int, int], tiles: int, along: Literal[0, 1], overlap: float) -> Stage:
    """Lay out a row of tiles that overlap by the share `overlap`."""
    return Stage(tile_shape, tiles, round(tile_shape[along] * (1 - overlap)), along)


def blur_background(light: Image, *, planes: int, sharpest: float, level: Level) -> list[Image]:
    """Defocus the background once per plane; it lies at the height `sharpest`."""
    return [_blur(light, sigma=level.blur_px_per_plane * abs(plane - sharpest)) for plane in range(planes)]


def take_plane(background: Image, *, picture: EmbryoPicture | None, plane: float, level: Level) -> Image:
    """Light that reaches the camera at one focal plane.

    Every part of the embryo is blurred by its own distance from the plane; the background comes blurred already.
    """
    scene = background.copy()
    if picture is None:
        return scene
    passed = np.exp(-picture.absorbance)
    seen, weights = np.zeros_like(passed), np.zeros_like(passed)
    for height in np.unique(picture.height):
        # Parts pass into each other within a pixel or two, as tissue does.
        weight = _blur((picture.height == height).astype(np.float32), sigma=_SEAM_PX)
        seen += weight * _blur(passed, sigma=level.blur_px_per_plane * abs(plane - float(height)))
        weights += weight
    seen /= weights
    rows = slice(picture.row_px, picture.row_px + seen.shape[0])
    columns = slice(picture.column_px, picture.column_px + seen.shape[1])
    scene[rows, columns] *= seen
    return scene


def shade_tile(seed: int, *, name: str, tile_shape: tuple[int, int], level: Level) -> Image:
    """Response of camera and lamp over one tile: vignette, a tilt and a gain of its own, `(H, W)` near 1."""
    rows, columns = np.mgrid[-1 : 1 : tile_shape[0] * 1j, -1 : 1 : tile_shape[1] * 1j].astype(np.float32)
    random = open_stream(seed, name=f"{name}/gain")
    gain = 1 + float(random.uniform(-level.tile_gain, level.tile_gain))
    tilt = random.uniform(-0.4, 0.4, 2) * level.tile_gain
    vignette = 1 - 0.8 * level.tile_gain * (rows**2 + columns**2)
    return np.asarray(gain * vignette + tilt[0] * rows + tilt[1] * columns, np.float32)


def expose(
    light: Image, *, shading: Image | None, noise_sd: float, random: np.random.Generator, bit_depth: BitDepth
) -> Pixels:
    """Turn light into grey values: shading, camera noise, rounding and saturation.

    Light and noise are in grey values of 8 bit; a depth of 16 gives uint16 on 257 times the scale.
    """
    seen = random.standard_normal(light.shape, np.float32)
    seen *= np.float32(noise_sd)
    seen += light if shading is None else light * shading
    if bit_depth == 8:
        np.rint(seen, out=seen)
        return np.clip(seen, 0, 255, out=seen).astype(np.uint8)
    seen *= np.float32(257)
    return np.clip(np.rint(seen, out=seen), 0, 65535, out=seen).astype(np.uint16)


def write_keyence_tiff(path: Path, *, pixels: Pixels, um_per_px: float, time_s: float) -> None:
    """Write one plane of one tile, taken some seconds after the experiment's first picture.

    The pixel size is stored as the field's width and height in whole nanometres.
    """
    block = _metadata_block(pixels.shape[0], pixels.shape[1], um_per_px=um_per_px, time_s=time_s)
    tifffile.imwrite(path, pixels, byteorder="<", photometric="minisblack", metadata=None, software=False)
    # Behind the picture's data the block disturbs no reader of TIFF, as an unknown tag would.
    with path.open("ab") as file:
        file.write(block)


def _metadata_block(rows: int, columns: int, *, um_per_px: float, time_s: float) -> bytes:
    whole, text = 'Type="System.Int32"', 'Type="System.String"'
    width_nm, height_nm = round(columns * um_per_px * 1000), round(rows * um_per_px * 1000)
    ticks = _FIRST_TICK + round(time_s * _TICKS_PER_S)
    lines = [
        "<Data>",
        f'<ShootingDateTime Type="System.Int64">{ticks}</ShootingDateTime>',
        f"<LensName {text}>PlanApo_4x 4x/0.20/20.00mm</LensName>",
        f"<Observation {text}>Brightfield</Observation>",
        f"<CameraArea><Width {whole}>1920</Width><Height {whole}>1440</Height></CameraArea>",
        f"<PictureSize><Width {whole}>{columns}</Width><Height {whole}>{rows}</Height></PictureSize>",
        f"<PictureArea><Width {whole}>{width_nm}</Width><Height {whole}>{height_nm}</Height></PictureArea>",
        "</Data>",
    ]
    return "\r\n".join(lines).encode("ascii")


def _blur(image: Image, *, sigma: float) -> Image:
    if sigma < 0.05:
        return image
    return np.asarray(cv2.GaussianBlur(image, (0, 0), sigma, borderType=cv2.BORDER_REFLECT_101), np.float32)
