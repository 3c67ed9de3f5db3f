"""Pictures: what is accepted is decoded exactly, what is not whole is refused with a remedy."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st

from morphseq_dagster.errors import PermanentError
from morphseq_dagster.imaging.picture_bytes import PictureHeader, peek_header
from morphseq_dagster.imaging.pictures import decode_grey, encode_jpeg, encode_png, read_grey


def gradient(dtype: type = np.uint8) -> np.ndarray:
    rows, columns = np.mgrid[:90, :120]
    return ((rows * 3 + columns) % 251 * (257 if dtype is np.uint16 else 1)).astype(dtype)


def tiff(pixels: np.ndarray, **options: object) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, pixels, **options)
    return buffer.getvalue()


WHOLE = {
    "png8": encode_png(gradient(), compression=6),
    "png16": encode_png(gradient(np.uint16), compression=1),
    "jpeg": encode_jpeg(gradient(), quality=95),
    "tiff8": tiff(gradient()),
    "tiff16": tiff(gradient(np.uint16), photometric="minisblack"),
    "tiff_deflate": tiff(gradient(), compression="zlib"),
    "tiff_lzw": cv2.imencode(".tif", gradient())[1].tobytes(),
}


@pytest.mark.parametrize("name", WHOLE)
def test_whole_pictures_are_read_with_the_hash_of_their_bytes(name: str, tmp_path: Path) -> None:
    path = tmp_path / "picture.any"
    path.write_bytes(WHOLE[name])
    picture = read_grey(path)
    expected = gradient(np.uint16 if name.endswith("16") else np.uint8)
    if name == "jpeg":
        # Quality 95 loses little, and decoding is the library's own.
        assert np.abs(picture.pixels.astype(int) - expected).mean() < 8
    else:
        np.testing.assert_array_equal(picture.pixels, expected)
    assert picture.pixels.dtype == expected.dtype
    assert picture.sha256 == hashlib.sha256(WHOLE[name]).hexdigest()
    assert picture.plain_grey_jpeg == (name == "jpeg")
    assert name.startswith(picture.source_format)
    bits = 16 if name.endswith("16") else 8
    assert peek_header(path) == PictureHeader(picture.source_format, 90, 120, bits, 1)


@pytest.mark.parametrize("name", WHOLE)
@pytest.mark.parametrize("share", [0.02, 0.3, 0.5, 0.9, 0.999])
def test_truncated_pictures_are_refused(name: str, share: float) -> None:
    data = WHOLE[name][: int(len(WHOLE[name]) * share)]
    with pytest.raises(PermanentError) as caught:
        decode_grey(data, where="B07.any")
    assert caught.value.where == "B07.any"
    assert caught.value.remedy


def test_real_half_jpeg_is_refused(shared: Path) -> None:
    whole = min((shared / "data/embryonet_timelapse/images").glob("*.jpg")).read_bytes()
    assert decode_grey(whole, where="x").pixels.shape == (2048, 2048)
    for cut in (len(whole) // 2, len(whole) - 2):
        with pytest.raises(PermanentError, match="truncated"):
            decode_grey(whole[:cut], where="x")
        # A file whose size was set before its content was copied ends in zeros.
        with pytest.raises(PermanentError, match="truncated"):
            decode_grey(whole[:cut] + bytes(len(whole) - cut), where="x")


def test_zero_byte_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.png").touch()
    for reader in (read_grey, peek_header):
        with pytest.raises(PermanentError, match="0 bytes"):
            reader(tmp_path / "a.png")


def test_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PermanentError, match="No such file"):
        read_grey(tmp_path / "none.png")


def test_text_under_a_picture_name_is_refused() -> None:
    with pytest.raises(PermanentError, match="PNG, JPEG or TIFF"):
        decode_grey(b"well,time_int\n", where="x")


def test_flipped_bit_in_png_is_refused() -> None:
    data = bytearray(WHOLE["png8"])
    data[len(data) // 2] ^= 1
    with pytest.raises(PermanentError, match="checksum"):
        decode_grey(bytes(data), where="x")


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif"])
def test_real_colours_are_refused_and_equal_channels_are_grey(suffix: str) -> None:
    grey = np.repeat(gradient()[..., None], 3, axis=2)
    equal = decode_grey(cv2.imencode(suffix, grey)[1].tobytes(), where="x")
    assert equal.pixels.shape == (90, 120)
    assert not equal.plain_grey_jpeg
    coloured = grey.copy()
    coloured[20:60, 20:60, 0] = 0
    with pytest.raises(PermanentError, match="colour"):
        decode_grey(cv2.imencode(suffix, coloured)[1].tobytes(), where="x")


def test_alpha_is_dropped() -> None:
    four = np.repeat(gradient()[..., None], 4, axis=2)
    four[..., 3] = 7
    np.testing.assert_array_equal(decode_grey(cv2.imencode(".png", four)[1].tobytes(), where="x").pixels, gradient())


def test_separate_planes_of_a_tiff_are_compared_as_channels() -> None:
    planes = np.stack([gradient()] * 3)
    data = tiff(planes, photometric="rgb", planarconfig="separate")
    np.testing.assert_array_equal(decode_grey(data, where="x").pixels, gradient())


def test_tiff_where_zero_is_white_is_turned_round() -> None:
    data = tiff(gradient(), photometric="miniswhite")
    np.testing.assert_array_equal(decode_grey(data, where="x").pixels, 255 - gradient())


def test_several_pages_are_refused(shared: Path) -> None:
    with pytest.raises(PermanentError, match="pages"):
        decode_grey(tiff(np.stack([gradient()] * 2), photometric="minisblack"), where="x")
    with pytest.raises(PermanentError, match="3 pages"):
        read_grey(shared / "data/other_organism/xyt_8bit_polyp.tif")


def test_float_and_signed_pixels_are_refused() -> None:
    for dtype in (np.float32, np.int16, np.uint32):
        with pytest.raises(PermanentError, match="samples"):
            decode_grey(tiff(gradient().astype(dtype), photometric="minisblack"), where="x")


def test_pixels_cannot_be_written() -> None:
    with pytest.raises(ValueError, match="read-only"):
        decode_grey(WHOLE["png8"], where="x").pixels[0, 0] = 1


def test_encoded_bytes_are_equal_for_equal_pixels() -> None:
    assert encode_jpeg(gradient(), quality=90) == encode_jpeg(gradient().copy(), quality=90)
    assert encode_png(gradient(), compression=6) == encode_png(np.asfortranarray(gradient()), compression=6)


@given(st.binary(max_size=200), st.sampled_from(sorted(WHOLE)), st.integers(0, 120))
def test_any_damage_gives_pixels_or_a_permanent_error(junk: bytes, name: str, at: int) -> None:
    data = WHOLE[name][:at] + junk + WHOLE[name][at + len(junk) :]
    try:
        picture = decode_grey(data, where="x")
    except PermanentError:
        return
    assert picture.pixels.ndim == 2


def jpeg_with(*segments: bytes) -> bytes:
    """A whole JPEG with further segments behind its first marker."""
    return WHOLE["jpeg"][:2] + b"".join(segments) + WHOLE["jpeg"][2:]


def test_frame_header_behind_large_segments_is_found(tmp_path: Path) -> None:
    # An application segment holds at most 65533 bytes; two of them reach beyond the first 64 KiB.
    segment = b"\xff\xe1\xff\xff" + bytes(65533)
    path = tmp_path / "a.jpg"
    path.write_bytes(jpeg_with(segment, segment))
    assert peek_header(path) == PictureHeader("jpeg", 90, 120, 8, 1)


def test_fill_bytes_and_bare_markers_between_segments_are_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(jpeg_with(b"\xff\xff\xff\x01", b"\xff\xd0"))
    assert peek_header(path) == PictureHeader("jpeg", 90, 120, 8, 1)


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (b"\xff\xd8\xff\xe0\x00\x04ab" + b"x" * 40, "no marker at byte 8"),
        (b"\xff\xd8\xff\xda\x00\x04ab" + b"x" * 40, "scan without frame header"),
        (b"\xff\xd8\xff\xe0\xff\xff" + b"x" * 40, "ends inside its header"),
        (WHOLE["png8"][:25] + b"\x01" + WHOLE["png8"][26:], "unknown colour type 1"),
        (WHOLE["png8"][:30], "PNG header incomplete"),
    ],
)
def test_damaged_headers_are_named(data: bytes, found: str, tmp_path: Path) -> None:
    (tmp_path / "a.any").write_bytes(data)
    for read in (peek_header, read_grey):
        with pytest.raises(PermanentError, match=found):
            read(tmp_path / "a.any")


def test_animated_png_is_refused() -> None:
    head = 8 + 25  # magic and IHDR chunk
    chunk = b"acTL" + bytes(8)
    animated = (8).to_bytes(4, "big") + chunk + zlib.crc32(chunk).to_bytes(4, "big")
    with pytest.raises(PermanentError, match="animated"):
        decode_grey(WHOLE["png8"][:head] + animated + WHOLE["png8"][head:], where="x")


@pytest.mark.parametrize(("number", "expected"), [(errno.ESTALE, OSError), (errno.EACCES, PermanentError)])
def test_failing_server_is_passed_on_and_a_forbidden_file_is_not(
    number: int, expected: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Path, "open", fail)
    with pytest.raises(expected, match=os.strerror(number)):
        peek_header(Path("a.png"))


def test_palette_and_bilevel_tiffs_are_refused() -> None:
    palette = tiff(gradient(), photometric="palette", colormap=np.zeros((3, 256), np.uint16))
    with pytest.raises(PermanentError, match="palette"):
        decode_grey(palette, where="x")
    with pytest.raises(PermanentError, match="1-bit samples"):
        decode_grey(tiff(gradient() > 100, photometric="minisblack"), where="x")
