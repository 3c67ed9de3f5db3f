"""Pictures of the demo plate for docs/, drawn from its published artifacts."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Final, TypeVar

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from pydantic import BaseModel

from morphseq_dagster.engine.layout import Layout
from morphseq_dagster.engine.tables.document import parse_document
from morphseq_dagster.imaging.pictures import read_grey
from morphseq_dagster.morphseq.contracts.detections import DetectionDocument, DetectionEntry
from morphseq_dagster.morphseq.contracts.organized_frames import OrganizedFrames
from morphseq_dagster.morphseq.contracts.segmentations import SegmentationDocument
from morphseq_dagster.morphseq.contracts.snips import Snips
from morphseq_dagster.segmentation.rle import Rle, decode

_Model = TypeVar("_Model", bound=BaseModel)
Colour = tuple[int, int, int]
Box = tuple[float, float, float, float]

_GAP: Final = 8
_HEADER: Final = 26
_PAPER: Final[Colour] = (255, 255, 255)
_INK: Final[Colour] = (51, 65, 85)
_OUTLINE: Final[Colour] = (5, 150, 105)
_BOX: Final[Colour] = (234, 120, 20)
_SCALE: Final = 3
"""Lines are drawn this many times larger and shrunk, which smooths them."""


def draw_plate(layout: Layout, experiment: str, *, time_int: int, width_px: int = 150) -> bytes:
    """Draw one frame of every well with the outline and box of each embryo: PNG.

    Parameters
    ----------
    layout, experiment
        A finished experiment.
    time_int
        Frame number.
    width_px
        Width of one well in the picture.
    """
    frames = _document(layout, experiment, "organized_frames", OrganizedFrames)
    boxes = _document(layout, experiment, "gdino_detections", DetectionDocument)
    masks = _document(layout, experiment, "sam2_segmentations", SegmentationDocument)
    found = boxes.high_quality_annotations[experiment].filtered
    tiles = []
    for image_id, entry in frames.images.items():
        if entry.time_int != time_int:
            continue
        pixels = read_grey(layout.absolute(entry.path)).pixels.astype(np.uint8)
        grey = 255 - pixels if frames.polarity == "inverted" else pixels
        video = masks.experiments[experiment].videos[f"{experiment}_{entry.well}"]
        segmented = video.image_ids.get(image_id)
        tile = _Tile(grey, width_px=width_px, title=entry.well)
        for detection in found.get(image_id, ()):
            tile.add_box(detection.box_xyxy)
        embryos = segmented.embryos if segmented is not None else {}
        for embryo in embryos.values():
            size, counts = embryo.segmentation.size, embryo.segmentation.counts
            tile.add_outline(decode(Rle.from_base64(counts, size=size)))
            tile.add_label(embryo.embryo_id.rpartition("_")[2], box=embryo.bbox, boxes=found.get(image_id, ()))
        if not embryos:
            tile.add_note("no embryo")
        tiles.append(tile.finish())
    return _encode(_join(tiles))


def draw_snips(layout: Layout, experiment: str, *, time_int: int, height_px: int = 270) -> bytes:
    """Draw the snip of every embryo in one frame, with its predicted stage: PNG."""
    manifest = _document(layout, experiment, "snips", Snips)
    table = pd.read_csv(layout.primary("qc_staged", experiment=experiment)).set_index("snip_id")
    tiles = []
    for snip_id, entry in manifest.snips.items():
        row = table.loc[snip_id]
        if row["time_int"] != time_int:
            continue
        grey = read_grey(layout.absolute(entry.path)).pixels.astype(np.uint8)
        tile = _Tile(grey, width_px=round(grey.shape[1] * height_px / grey.shape[0]), title=entry.well)
        tile.add_note(f"{row['predicted_stage_hpf']:.1f} hpf" + (", dead" if row["dead_flag"] else ""), colour=_PAPER)
        tiles.append(tile.finish())
    return _encode(_join(tiles))


class _Tile:
    """One picture with its drawing, made large and shrunk at the end."""

    def __init__(self, grey: NDArray[np.uint8], *, width_px: int, title: str) -> None:
        self._size = width_px, round(grey.shape[0] * width_px / grey.shape[1])
        large = (self._size[0] * _SCALE, self._size[1] * _SCALE)
        self._image = Image.fromarray(np.asarray(cv2.resize(grey, self._size, interpolation=cv2.INTER_AREA)))
        self._image = self._image.convert("RGB").resize(large, Image.Resampling.BICUBIC)
        self._draw = ImageDraw.Draw(self._image)
        self._title = title
        self._notes: list[tuple[str, float, float, Colour]] = []

    def add_box(self, box: Box) -> None:
        width, height = self._image.size
        self._draw.rectangle((box[0] * width, box[1] * height, box[2] * width, box[3] * height), outline=_BOX, width=4)

    def add_outline(self, mask: NDArray[np.bool_]) -> None:
        width, height = self._image.size
        large = cv2.resize(mask.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR)
        outlines, _ = cv2.findContours((large > 0.5).astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        for outline in outlines:
            points = [(int(x), int(y)) for x, y in outline[:, 0]]
            self._draw.line([*points, points[0]], fill=_OUTLINE, width=6, joint="curve")

    def add_label(self, text: str, *, box: Box, boxes: Sequence[DetectionEntry]) -> None:
        """Write below the detector's box around a mask's box, or above it where the picture ends."""
        width, height = self._image.size
        outer = min((b.box_xyxy for b in boxes), key=lambda b: sum(abs(p - q) for p, q in zip(b, box, strict=True)))
        margin = 11 * _SCALE
        below = outer[3] * height + margin
        y = below if below < height - margin else outer[1] * height - margin
        self._notes.append((text, (outer[0] + outer[2]) / 2 * width, y, _OUTLINE))

    def add_note(self, text: str, *, colour: Colour = _INK) -> None:
        width, height = self._image.size
        self._notes.append((text, width / 2, height - 14 * _SCALE, colour))

    def finish(self) -> NDArray[np.uint8]:
        for text, x, y, colour in self._notes:
            self._draw.text((x, y), text, fill=colour, font=_font(13 * _SCALE), anchor="mm")
        width, height = self._size
        tile = Image.new("RGB", (width, height + _HEADER), _PAPER)
        tile.paste(self._image.resize(self._size, Image.Resampling.LANCZOS), (0, _HEADER))
        ImageDraw.Draw(tile).text((width / 2, _HEADER / 2), self._title, fill=_INK, font=_font(15), anchor="mm")
        return np.asarray(tile)


def _join(tiles: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    gap = np.full((tiles[0].shape[0], _GAP, 3), _PAPER, np.uint8)
    parts = [part for tile in tiles for part in (gap, tile)]
    row = np.concatenate([*parts, gap], axis=1)
    edge = np.full((_GAP, row.shape[1], 3), _PAPER, np.uint8)
    return np.concatenate([row, edge], axis=0)


def _encode(pixels: NDArray[np.uint8]) -> bytes:
    """Encode with a fixed palette: greys, and each colour of the drawing mixed with them."""
    greys = [(round(g),) * 3 for g in np.linspace(0, 255, 64)]
    mixed = [
        tuple(round(share * c + (1 - share) * grey) for c in colour)
        for colour in (_OUTLINE, _BOX)
        for share in (0.35, 0.65, 1.0)
        for grey in np.linspace(0, 255, 8)
    ]
    palette = Image.new("P", (1, 1))
    palette.putpalette([value for colour in (*greys, *mixed) for value in colour])
    picture = Image.fromarray(pixels).quantize(palette=palette, dither=Image.Dither.NONE)
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _document(layout: Layout, experiment: str, name: str, model: type[_Model]) -> _Model:
    path = layout.primary(name, experiment=experiment)
    return parse_document(model, path.read_bytes(), where=str(path))
