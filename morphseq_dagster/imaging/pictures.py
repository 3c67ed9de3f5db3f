"""Single grey pictures: decode PNG, JPEG and TIFF that are proven whole, encode JPEG and PNG.

The proof that a file is whole is in `picture_bytes`.
"""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import tifffile
from numpy.typing import NDArray

from morphseq_dagster.errors import PermanentError
from morphseq_dagster.imaging.picture_bytes import (
    SourceFormat,
    check_jpeg_end,
    check_png_chunks,
    first_page,
    open_tiff,
    parse_header,
    read_file_bytes,
    refuse_damaged,
    refuse_truncated,
)

GreyPixels = NDArray[np.uint8] | NDArray[np.uint16]


@dataclass(frozen=True)
class GreyPicture:
    """One decoded picture.

    Attributes
    ----------
    pixels
        `(H, W)` uint8 or uint16, brighter is more light; not writeable.
    sha256
        Hash of the very bytes that were decoded.
    plain_grey_jpeg
        True when the bytes are an 8-bit JPEG of one component, which can be kept as they are.
    """

    pixels: GreyPixels
    sha256: str
    source_format: SourceFormat
    plain_grey_jpeg: bool


def read_grey(path: Path) -> GreyPicture:
    """Read one grey picture from a PNG, JPEG or TIFF file.

    Parameters
    ----------
    path
        Picture of 8 or 16 bits. Channels that are all equal count as grey; an alpha channel is dropped.

    Raises
    ------
    PermanentError
        When the file is missing, empty, truncated, damaged, of another format, coloured, of more than one page or of
        other than 8- or 16-bit unsigned samples.
    """
    return decode_grey(read_file_bytes(path), where=str(path))


def decode_grey(data: bytes, *, where: str) -> GreyPicture:
    """Decode one grey picture from the bytes of a whole file, which `where` names in errors; see `read_grey`."""
    header = parse_header(data, where=where)
    if header.source_format == "tiff":
        pixels = _decode_tiff(data, where=where)
    else:
        if header.source_format == "png":
            check_png_chunks(data, where=where)
        else:
            check_jpeg_end(data, where=where)
        # IMREAD_UNCHANGED also ignores the EXIF orientation: rows and columns stay those of the sensor.
        pixels = _decode_opencv(data, where=where)
    grey = _as_grey(pixels, where=where)
    grey.setflags(write=False)
    plain = header.source_format == "jpeg" and header.samples == 1 and header.bits == 8
    return GreyPicture(grey, hashlib.sha256(data).hexdigest(), header.source_format, plain)


def encode_jpeg(pixels: NDArray[np.uint8], *, quality: int) -> bytes:
    """Encode a grey picture `(H, W)` as JPEG, quality 0 to 100; equal pixels give equal bytes, without metadata."""
    return _encode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, quality])


def encode_png(pixels: GreyPixels, *, compression: int) -> bytes:
    """Encode a grey picture or label mask `(H, W)` as PNG, zlib level 0 to 9; 6 suits masks, 1 suits pictures."""
    return _encode(".png", pixels, [cv2.IMWRITE_PNG_COMPRESSION, compression])


def _encode(suffix: str, pixels: GreyPixels, options: list[int]) -> bytes:
    done, buffer = cv2.imencode(suffix, pixels, options)
    if not done:
        raise RuntimeError(f"OpenCV could not encode {pixels.shape} {pixels.dtype} as {suffix}")
    return buffer.tobytes()


def _as_grey(pixels: NDArray[np.generic], *, where: str) -> GreyPixels:
    if pixels.dtype.kind != "u" or pixels.dtype.itemsize > 2:
        raise PermanentError(
            expected="8- or 16-bit unsigned samples",
            found=f"samples of type {pixels.dtype}",
            where=where,
            remedy="export the picture as 8- or 16-bit grey",
        )
    if pixels.ndim == 3:
        colours = pixels[..., :1] if pixels.shape[2] <= 2 else pixels[..., :3]
        if not (colours == colours[..., :1]).all():
            raise PermanentError(
                expected="a grey picture, or colour channels that are all equal",
                found=f"a colour picture ({pixels.shape[2]} channels that differ)",
                where=where,
                remedy="export the brightfield channel alone as grey",
            )
        pixels = colours[..., 0]
    if pixels.ndim != 2 or pixels.size == 0:
        raise PermanentError(
            expected="one picture of rows and columns",
            found=f"an array of shape {pixels.shape}",
            where=where,
            remedy="export one plane per file",
        )
    # A copy in native byte order that shares no memory with the decoder's buffer.
    if pixels.dtype.itemsize == 1:
        return np.array(pixels, dtype=np.uint8, order="C")
    return np.array(pixels, dtype=np.uint16, order="C")


def _decode_opencv(data: bytes, *, where: str) -> NDArray[np.generic]:
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        raise refuse_damaged(str(error), where=where) from error
    if pixels is None:
        raise refuse_damaged("data that cannot be decoded", where=where)
    return pixels


def _decode_tiff(data: bytes, *, where: str) -> NDArray[np.generic]:
    with open_tiff(io.BytesIO(data), where=where) as tiff:
        page = first_page(tiff, where=where)
        ends = [offset + count for offset, count in zip(page.dataoffsets, page.databytecounts, strict=False)]
        if not ends or max(ends) > len(data) or 0 in page.databytecounts:
            raise refuse_truncated(f"TIFF of {len(data)} bytes, its pixels end at {max(ends, default=0)}", where=where)
        if page.photometric == tifffile.PHOTOMETRIC.PALETTE:
            raise PermanentError(
                expected="a grey picture",
                found="a TIFF with a colour palette",
                where=where,
                remedy="export the picture as 8- or 16-bit grey",
            )
        if page.bitspersample not in (8, 16):
            raise PermanentError(
                expected="8- or 16-bit unsigned samples",
                found=f"{page.bitspersample}-bit samples of type {page.dtype}",
                where=where,
                remedy="export the picture as 8- or 16-bit grey",
            )
        # tifffile reads LZW and the like only with a further package; OpenCV brings its own.
        if page.compression in (tifffile.COMPRESSION.NONE, tifffile.COMPRESSION.ADOBE_DEFLATE) and page.predictor == 1:
            try:
                pixels: NDArray[np.generic] = page.asarray()
            except Exception as error:
                raise refuse_damaged(f"a truncated or damaged TIFF ({error})", where=where) from error
            if page.planarconfig == tifffile.PLANARCONFIG.SEPARATE and pixels.ndim == 3:
                pixels = np.moveaxis(pixels, 0, -1)
            if page.photometric == tifffile.PHOTOMETRIC.MINISWHITE and pixels.dtype.kind == "u":
                pixels = np.invert(pixels)
            return pixels
    return _decode_opencv(data, where=where)
