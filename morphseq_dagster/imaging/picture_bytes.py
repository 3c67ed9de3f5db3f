"""Bytes of picture files: what they say about themselves and proof that they are whole.

Decoders check too little: some fill the rest of a half JPEG with grey.
"""

from __future__ import annotations

import errno
import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

import tifffile

from morphseq_dagster.errors import PermanentError

SourceFormat = Literal["png", "jpeg", "tiff"]

_PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
_JPEG_MAGIC = b"\xff\xd8\xff"
_TIFF_MAGICS = (b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+")
# Frame headers of JPEG (ITU T.81, table B.1): C0..CF without DHT (C4), JPG (C8) and DAC (CC).
_JPEG_FRAME_MARKERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_JPEG_BARE_MARKERS = frozenset({0x01, *range(0xD0, 0xD8)})
_COPY_AGAIN = "copy the file again from the microscope, or remove the frame"
# What a server that answers late or not at all says; anything else (missing, a folder, no rights) will not heal.
_PASSING = frozenset({errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EAGAIN, errno.EINTR, errno.ENFILE, errno.EMFILE})


@dataclass(frozen=True)
class PictureHeader:
    """What a picture file says about itself before any pixel is decoded.

    Attributes
    ----------
    source_format
        Format by content, not by suffix.
    samples
        Samples per pixel as stored; 1 is plain grey. A palette counts as 3.
    """

    source_format: SourceFormat
    height_px: int
    width_px: int
    bits: int
    samples: int


def read_file_bytes(path: Path) -> bytes:
    """Read a file once; a missing or forbidden file is a permanent error, a failing server is passed on.

    Raises
    ------
    PermanentError
        When the file is missing, is no file, or may not be read.
    OSError
        When the storage answers with a passing error (input/output, stale handle, time-out).
    """
    with _refusing(path):
        return path.read_bytes()


def peek_header(path: Path) -> PictureHeader:
    """Read size and depth of a picture without decoding it (TIFF and PNG: a few kilobytes are read).

    Raises
    ------
    PermanentError
        When the file is missing, empty, of an unknown format or its header is damaged. A file that is cut behind its
        header is found by `read_grey` only.
    """
    with _refusing(path), path.open("rb") as handle:
        head = handle.read(65536)
        if head.startswith(_JPEG_MAGIC):
            try:
                return _jpeg_scan_start(head, where=str(path))[0]
            except PermanentError:
                # The frame header may stand behind large application segments (thumbnails, colour profiles).
                return _jpeg_scan_start(head + handle.read(), where=str(path))[0]
        if not head.startswith(_TIFF_MAGICS):
            return parse_header(head, where=str(path))
        handle.seek(0)
        return _tiff_header(handle, where=str(path))


@contextmanager
def _refusing(path: Path) -> Iterator[None]:
    """Make a permanent error of what will not heal; a failing server is passed on."""
    try:
        yield
    except OSError as error:
        if error.errno in _PASSING:
            raise
        raise PermanentError(
            expected="a readable file",
            found=error.strerror or str(error),
            where=str(path),
            remedy="put the file in its place or mend its access rights",
        ) from error


def parse_header(data: bytes, *, where: str) -> PictureHeader:
    """Size and depth from the first bytes of a picture; see `peek_header`."""
    if not data:
        raise PermanentError(expected="a picture", found="an empty file (0 bytes)", where=where, remedy=_COPY_AGAIN)
    if data.startswith(_PNG_MAGIC):
        return _png_header(data, where=where)
    if data.startswith(_JPEG_MAGIC):
        return _jpeg_scan_start(data, where=where)[0]
    if data.startswith(_TIFF_MAGICS):
        return _tiff_header(io.BytesIO(data), where=where)
    raise PermanentError(
        expected="a PNG, JPEG or TIFF picture",
        found=f"a file that begins with {data[:8]!r}",
        where=where,
        remedy="export the picture as PNG, JPEG or TIFF",
    )


def refuse_damaged(found: str, *, where: str) -> PermanentError:
    """Make the error of a file that cannot be used as it is."""
    return PermanentError(expected="a whole picture", found=found, where=where, remedy=_COPY_AGAIN)


def refuse_truncated(found: str, *, where: str) -> PermanentError:
    """Make the error of a file that ends too early."""
    return refuse_damaged(f"a truncated file ({found})", where=where)


def refuse_pages(found: str, *, where: str) -> PermanentError:
    """Make the error of a file of several pictures."""
    return PermanentError(
        expected="one picture per file",
        found=found,
        where=where,
        remedy="export one plane or time point per file",
    )


def _png_header(data: bytes, *, where: str) -> PictureHeader:
    if len(data) < 33 or data[12:16] != b"IHDR":
        raise refuse_truncated("PNG header incomplete", where=where)
    width, height = int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")
    samples = {0: 1, 2: 3, 3: 3, 4: 2, 6: 4}.get(data[25])
    if samples is None:
        raise refuse_damaged(f"PNG of unknown colour type {data[25]}", where=where)
    return PictureHeader("png", height, width, max(8, data[24]), samples)


def check_png_chunks(data: bytes, *, where: str) -> None:
    """Walk all chunks and compare their checksums (PNG specification, 5.3)."""
    at = len(_PNG_MAGIC)
    while True:
        if at + 12 > len(data):
            raise refuse_truncated("PNG ends before its IEND chunk", where=where)
        size = int.from_bytes(data[at : at + 4], "big")
        kind, end = data[at + 4 : at + 8], at + 12 + size
        if end > len(data):
            raise refuse_truncated(f"PNG ends inside its {kind!r} chunk", where=where)
        if zlib.crc32(data[at + 4 : end - 4]) != int.from_bytes(data[end - 4 : end], "big"):
            raise refuse_damaged(f"a damaged PNG (checksum of its {kind!r} chunk is wrong)", where=where)
        if kind == b"acTL":
            raise refuse_pages("an animated PNG", where=where)
        if kind == b"IEND":
            return
        at = end


def _jpeg_scan_start(data: bytes, *, where: str) -> tuple[PictureHeader, int]:
    """Walk the segments to the first scan; return the frame header and the position of the scan."""
    at, header = 2, None
    while at + 4 <= len(data):
        if data[at] != 0xFF:
            raise refuse_damaged(f"a damaged JPEG (no marker at byte {at})", where=where)
        marker = data[at + 1]
        if marker == 0xFF or marker in _JPEG_BARE_MARKERS:
            at += 1 if marker == 0xFF else 2
            continue
        if marker == 0xDA:
            if header is None:
                raise refuse_damaged("a damaged JPEG (scan without frame header)", where=where)
            return header, at
        if marker in _JPEG_FRAME_MARKERS and at + 10 <= len(data):
            height, width = (
                int.from_bytes(data[at + 5 : at + 7], "big"),
                int.from_bytes(data[at + 7 : at + 9], "big"),
            )
            header = PictureHeader("jpeg", height, width, data[at + 4], data[at + 9])
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    raise refuse_truncated("JPEG ends inside its header", where=where)


def check_jpeg_end(data: bytes, *, where: str) -> None:
    """Ask for the end marker behind the first scan.

    Inside coded data FF is always followed by 00 or a restart marker (ITU T.81, B.1.1.5), so FF D9 can only be the
    end. Some decoders fill what is missing with grey and say nothing.
    """
    _, start = _jpeg_scan_start(data, where=where)
    if data.find(b"\xff\xd9", start) < 0:
        raise refuse_truncated("JPEG without its end marker", where=where)


def open_tiff(handle: BinaryIO, *, where: str) -> tifffile.TiffFile:
    """Open a TIFF; whatever breaks in its structure becomes a permanent error."""
    try:
        return tifffile.TiffFile(handle)
    # tifffile raises whatever its parser meets in a broken file; the cause is kept.
    except Exception as error:
        raise refuse_damaged(f"a truncated or damaged TIFF ({error})", where=where) from error


def first_page(tiff: tifffile.TiffFile, *, where: str) -> tifffile.TiffPage:
    """Return the only full-size page; reduced copies beside it are passed over."""
    try:
        page = tiff.pages.first
        full = sum(1 for other in tiff.pages if other.keyframe is None or not other.keyframe.is_reduced)
        stacked = tiff.series[0].size if tiff.series else page.size
    except Exception as error:
        raise refuse_damaged(f"a truncated or damaged TIFF ({error})", where=where) from error
    if full > 1 or stacked > page.size:
        pages = max(full, stacked // max(page.size, 1))
        raise refuse_pages(f"a TIFF of {pages} pages", where=where)
    if page.dtype is None or page.size == 0:
        raise refuse_damaged("a TIFF without readable samples", where=where)
    return page


def _tiff_header(handle: BinaryIO, *, where: str) -> PictureHeader:
    with open_tiff(handle, where=where) as tiff:
        page = first_page(tiff, where=where)
        samples = 3 if page.photometric == tifffile.PHOTOMETRIC.PALETTE else page.samplesperpixel
        return PictureHeader("tiff", page.imagelength, page.imagewidth, page.bitspersample, samples)
