"""The metadata block that Keyence microscopes write into their TIFF files."""

from __future__ import annotations

import re
from dataclasses import dataclass

from morphseq_dagster.errors import PermanentError

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
