"""Keyence experiments: folders of tiles and planes to one focused, stitched, inverted picture per well and time.

The metadata block of a file is read here too; the layout of the folders is in `keyence_layout`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from morphseq_dagster.errors import PermanentError, TransientError
from morphseq_dagster.identifiers import experiment_date
from morphseq_dagster.imaging.contrast import GREY_LEVELS, count_grey_levels, find_limits, invert, stretch
from morphseq_dagster.imaging.focus import FocusStack, FocusStacker, filter_size, gather_planes, median_filter_index
from morphseq_dagster.imaging.keyence_layout import scan_keyence_folder
from morphseq_dagster.imaging.parameters import FocusSettings
from morphseq_dagster.imaging.picture_bytes import read_file_bytes
from morphseq_dagster.imaging.pictures import GreyPicture, GreyPixels, decode_grey
from morphseq_dagster.imaging.sources import (
    NO_PLANE,
    FocusedFrame,
    Polarity,
    RawFrame,
    RawScan,
)
from morphseq_dagster.imaging.stitching import (
    TileStep,
    canvas_shape,
    choose_orientation,
    fit_canvas,
    measure_offsets,
    nominal_steps,
    stitch,
    stitch_labels,
)

_FIELD = re.compile(
    r"<(?P<tag>[A-Za-z_]\w*)\s+Type=\"System\.(?P<type>\w+)\"\s*>(?P<value>[^<]*)</(?P=tag)\s*>", re.ASCII
)
_TICKS_PER_S = 10_000_000
"""Shooting times count units of 100 ns (spec 3.2)."""
_LARGEST_ANISOTROPY = 0.005


@dataclass(frozen=True)
class KeyenceHeader:
    """Metadata of one Keyence plane: size of picture and field, lens and observation type (None when not given).

    Attributes
    ----------
    time_s
        Shooting time in seconds on the microscope's clock, may be negative; only differences mean something.
    """

    time_s: float
    width_px: int
    height_px: int
    width_um: float
    height_um: float
    objective: str | None
    channel_name: str | None

    @property
    def um_per_px(self) -> float:
        """Pixel size in um: field height over picture height (spec 3.1)."""
        return self.height_um / self.height_px


def parse_keyence_header(data: bytes, *, where: str) -> KeyenceHeader:
    """Read the metadata block from the bytes of a Keyence TIFF.

    Raises
    ------
    PermanentError
        When the block is missing or lacks a size or the shooting time, or sizes make no sense; all are named.

    Notes
    -----
    `Width` and `Height` occur several times: the second is in pixels, the third in nanometres (spec 3.2).
    """
    start = data.find(b"<Data>")
    end = data.find(b"</Data>", start + 1)
    if start < 0 or end < 0:
        raise _refuse("no block <Data>...</Data>", where=where)
    fields: dict[str, list[str]] = {}
    for match in _FIELD.finditer(data[start:end].decode("utf-8", errors="replace")):
        fields.setdefault(match["tag"], []).append(match["value"].strip())
    faults: list[str] = []
    time_ticks = _whole(fields, "ShootingDateTime", occurrence=1, faults=faults)
    width_px = _whole(fields, "Width", occurrence=2, faults=faults)
    height_px = _whole(fields, "Height", occurrence=2, faults=faults)
    width_nm = _whole(fields, "Width", occurrence=3, faults=faults)
    height_nm = _whole(fields, "Height", occurrence=3, faults=faults)
    if not faults:
        if min(width_px, height_px, width_nm, height_nm) <= 0:
            faults.append(f"sizes {width_px} x {height_px} px, {width_nm} x {height_nm} nm are not all positive")
        elif abs(width_nm / width_px / (height_nm / height_px) - 1.0) > _LARGEST_ANISOTROPY:
            faults.append(f"pixels that are not square: {width_nm / width_px} x {height_nm / height_px} nm")
    if faults:
        raise _refuse("; ".join(faults), where=where)
    return KeyenceHeader(
        time_s=time_ticks / _TICKS_PER_S,
        width_px=width_px,
        height_px=height_px,
        width_um=width_nm / 1000.0,
        height_um=height_nm / 1000.0,
        objective=next(iter(fields.get("LensName", [])), None) or None,
        channel_name=next(iter(fields.get("Observation", [])), None) or None,
    )


def _whole(fields: dict[str, list[str]], tag: str, *, occurrence: int, faults: list[str]) -> int:
    values = fields.get(tag, [])
    if len(values) < occurrence:
        faults.append(f"{tag} occurs {len(values)} times, number {occurrence} is needed")
        return 0
    if not re.fullmatch(r"[+-]?[0-9]{1,19}", values[occurrence - 1]):
        faults.append(f"{tag} number {occurrence} is {values[occurrence - 1]!r}, a whole number is needed")
        return 0
    return int(values[occurrence - 1])


def _refuse(found: str, *, where: str) -> PermanentError:
    return PermanentError(
        expected="a Keyence TIFF with its metadata block (shooting time, Width and Height in px and nm)",
        found=found,
        where=where,
        remedy="copy the original file from the microscope (re-saved TIFFs lose the block), or use a Frames folder",
    )


class KeyenceSource:
    """Raw folder `raw_image_data/Keyence/{exp}` of a Keyence experiment; `scan` uses its channel and tiles per well."""

    polarity: Polarity = "inverted"
    """Keyence pictures are delivered inverted (spec 3.2 step 5)."""

    def __init__(self, folder: Path, *, settings: FocusSettings) -> None:
        self._folder = folder
        self._settings = settings

    def scan(self) -> RawScan:
        """List wells, times, tiles and planes from folder and file names; see `RawSource.scan`."""
        return scan_keyence_folder(
            self._folder, channel=self._settings.channel, tiles_per_well=self._settings.tiles_per_well
        )

    def full_focus(
        self, frame: RawFrame, *, settings: FocusSettings, plate_steps: Sequence[TileStep | None] = ()
    ) -> FocusedFrame:
        """Stack every tile, stretch the frame, stitch, cut to the canvas and invert; see `RawSource.full_focus`.

        Files are read once, and a second time when the map of planes is median-filtered; one tile's planes are
        never held together.
        """
        stacks, header, histogram, sources = self._stack_tiles(frame, settings=settings)
        limits = find_limits(
            histogram, low_percentile=settings.low_percentile, high_percentile=settings.high_percentile
        )
        # Choosing planes and stretching commute, so grey values are mapped once, after the choice.
        tiles = [stretch(stack.pixels, limits=limits) for stack in stacks]
        orientation = choose_orientation(settings.orientation, year=int(experiment_date(self._folder.name)[:4]))
        shape = (header.height_px, header.width_px)
        steps = nominal_steps(shape, count=len(tiles), overlap=settings.tile_overlap, orientation=orientation)
        offsets = measure_offsets(tiles, prior=steps, settings=settings.match, plate=plate_steps)
        mosaic = stitch(tiles, offsets=offsets)
        planes = stitch_labels([stack.plane_index for stack in stacks], offsets=offsets, fill=NO_PLANE)
        if orientation == "horizontal" and len(tiles) > 1:
            mosaic, planes = mosaic.T, planes.T
        canvas = canvas_shape(
            shape, count=len(tiles), orientation=orientation, overlap=settings.tile_overlap, rule=settings.canvas
        )
        return FocusedFrame(
            pixels=invert(fit_canvas(mosaic, shape=canvas, fill=0)),
            um_per_px=header.um_per_px,
            time_s=header.time_s,
            objective=header.objective,
            channel_name=header.channel_name,
            width_px=header.width_px,
            height_px=header.height_px,
            sources=sources,
            plane_index=fit_canvas(planes, shape=canvas, fill=NO_PLANE),
            tile_offsets=offsets,
            encoded=None,
        )

    def _stack_tiles(
        self, frame: RawFrame, *, settings: FocusSettings
    ) -> tuple[list[FocusStack], KeyenceHeader, NDArray[np.int64], tuple[tuple[str, str], ...]]:
        stacks: list[FocusStack] = []
        histogram = np.zeros(GREY_LEVELS, np.int64)
        sources: list[tuple[str, str]] = []
        header: KeyenceHeader | None = None
        form: tuple[tuple[int, ...], np.dtype[np.generic]] | None = None
        for paths in frame.tiles:
            stacker: FocusStacker | None = None
            hashes = []
            for path in paths:
                data = read_file_bytes(self._folder / path)
                picture = decode_grey(data, where=str(self._folder / path))
                if header is None or form is None:
                    header = parse_keyence_header(data, where=str(self._folder / path))
                    form = (header.height_px, header.width_px), picture.pixels.dtype
                self._check_form(picture, form=form, path=path)
                if stacker is None:
                    size = filter_size(header.um_per_px, feature_um=settings.focus_feature_um)
                    stacker = FocusStacker(size=size, score_sigma_px=settings.score_sigma_px)
                histogram += count_grey_levels(picture.pixels)
                hashes.append(picture.sha256)
                stacker.add(picture.pixels)
            if stacker is None:
                raise ValueError("a tile without planes")
            stacks.append(self._filter(stacker.result(), paths=paths, hashes=hashes, settings=settings))
            sources += zip(paths, hashes, strict=True)
        if header is None:
            raise ValueError("a frame without tiles")
        return stacks, header, histogram, tuple(sources)

    def _filter(
        self, stack: FocusStack, *, paths: tuple[str, ...], hashes: list[str], settings: FocusSettings
    ) -> FocusStack:
        if settings.index_median_px <= 1 or len(paths) == 1:
            return stack
        index = median_filter_index(stack.plane_index, size=settings.index_median_px)
        return FocusStack(gather_planes(self._read_again(paths, hashes), plane_index=index), index)

    def _read_again(self, paths: tuple[str, ...], hashes: list[str]) -> Iterator[GreyPixels]:
        for path, known in zip(paths, hashes, strict=True):
            data = read_file_bytes(self._folder / path)
            if hashlib.sha256(data).hexdigest() != known:
                raise TransientError(
                    expected="files that stay as they are while they are read",
                    found="other bytes at the second reading",
                    where=str(self._folder / path),
                    remedy="wait until the copy or the acquisition has ended, then run again",
                )
            yield decode_grey(data, where=str(self._folder / path)).pixels

    def _check_form(
        self, picture: GreyPicture, *, form: tuple[tuple[int, ...], np.dtype[np.generic]], path: str
    ) -> None:
        shape, dtype = form
        if picture.pixels.shape != shape or picture.pixels.dtype != dtype:
            raise PermanentError(
                expected=f"{shape[1]} x {shape[0]} px {dtype}, as the frame's first file says",
                found=f"{picture.pixels.shape[1]} x {picture.pixels.shape[0]} px {picture.pixels.dtype}",
                where=str(self._folder / path),
                remedy="copy the file again from the microscope, or remove the frame",
            )
