"""Keyence metadata: read as the microscope writes it, refused with all that is missing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from morphseq_dagster.errors import PermanentError
from morphseq_dagster.imaging.keyence import parse_keyence_header


def block(
    *, ticks: str = "-8580000000000000000", width: str = "1920", height: str = "1440", lens: str = "PlanApo 4x"
) -> bytes:
    return (
        "noise<Data><SingleFileProperty>"
        f'<ShootingDateTime Type="System.Int64">{ticks}</ShootingDateTime>'
        f'<LensName Type="System.String">{lens}</LensName>'
        '<Observation Type="System.String">Brightfield</Observation>'
        '<Width Type="System.Int32">960</Width><Height Type="System.Int32">720</Height>'
        f'<Width Type="System.Int32">{width}</Width><Height Type="System.Int32">{height}</Height>'
        '<Width Type="System.Int32">3623441</Width><Height Type="System.Int32">2717581</Height>'
        "</SingleFileProperty></Data>noise"
    ).encode()


def test_second_width_is_px_and_third_is_nm() -> None:
    header = parse_keyence_header(block(), where="x")
    assert (header.width_px, header.height_px) == (1920, 1440)
    assert (header.width_um, header.height_um) == (3623.441, 2717.581)
    assert header.um_per_px == pytest.approx(1.887209, abs=1e-6)
    assert header.time_s == -8.58e11
    assert (header.objective, header.channel_name) == ("PlanApo 4x", "Brightfield")


def test_times_differ_by_seconds() -> None:
    first = parse_keyence_header(block(ticks="-8580000000000000000"), where="x").time_s
    later = parse_keyence_header(block(ticks="-8579999982000000000"), where="x").time_s
    # 18 000 000 000 units of 100 ns.
    assert later - first == pytest.approx(1800.0, abs=1e-3)


def test_blank_lens_is_null() -> None:
    assert parse_keyence_header(block(lens=" "), where="x").objective is None


def test_everything_that_is_missing_is_named() -> None:
    with pytest.raises(PermanentError) as caught:
        parse_keyence_header(b"<Data></Data>", where="tile.tif")
    assert caught.value.found.count("occurs 0 times") == 5
    with pytest.raises(PermanentError, match="no block"):
        parse_keyence_header(b"II*\x00", where="tile.tif")


@pytest.mark.parametrize("options", [{"width": "0"}, {"width": "1000"}, {"ticks": "today"}, {"height": "-1440"}])
def test_values_without_sense_are_refused(options: dict[str, str]) -> None:
    with pytest.raises(PermanentError):
        parse_keyence_header(block(**options), where="x")


@given(st.binary(max_size=300))
def test_any_bytes_give_a_header_or_a_permanent_error(junk: bytes) -> None:
    whole = block()
    for data in (b"<Data>" + junk + b"</Data>", whole[:150] + junk + whole[150:]):
        try:
            header = parse_keyence_header(data, where="x")
        except PermanentError:
            continue
        assert header.width_px > 0
