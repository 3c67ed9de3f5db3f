from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from morphseq_dagster.adopt.legacy_ids import (
    TOP_FOLDERS,
    relative_path,
    translate_embryo,
    translate_image,
    translate_mask_name,
    translate_snip,
)
from morphseq_dagster.errors import PermanentError
from morphseq_dagster.identifiers import mint_embryo, mint_image, mint_snip

EXPERIMENTS = st.sampled_from(["20240418", "20250622_chem_28C_T00_1425", "20250716_exp_28C_1014", "20260415_t01"])
WELLS = st.builds(lambda row, column: f"{row}{column:02d}", st.sampled_from("ABCDEFGH"), st.integers(1, 12))


@given(EXPERIMENTS, WELLS, st.integers(1, 99), st.integers(0, 9999), st.sampled_from(["t", "s", ""]))
def test_every_form_of_a_snip_becomes_ours(exp: str, well: str, embryo: int, frame: int, letter: str) -> None:
    ours = mint_snip(mint_embryo(exp, well=well, number=embryo), frame=frame)
    older = f"{exp}_{well}_e{embryo:02d}_{letter}{frame:04d}"
    assert translate_snip(older) == ours
    assert translate_snip(ours) == ours


@given(EXPERIMENTS, WELLS, st.integers(0, 999), st.integers(0, 99), st.booleans())
def test_every_form_of_an_image_becomes_ours(exp: str, well: str, frame: int, channel: int, short: bool) -> None:
    ours = mint_image(exp, well=well, frame=frame, channel=channel)
    assert translate_image(ours)[0] == ours
    older = f"{exp}_{well}_t{frame:0{3 if short else 4}d}"
    assert translate_image(older)[0] == mint_image(exp, well=well, frame=frame)


def test_mask_names_lose_folders_and_gain_the_channel() -> None:
    assert translate_mask_name("/lab/x/20240411_A01_t0007_masks_emnum_2.png") == (
        "20240411_A01_ch00_t0007_masks_emnum_2.png"
    )
    assert translate_mask_name(r"Z:\x\20240411_A01_ch01_t0007_masks_emnum_2.png").startswith("20240411_A01_ch01_")


@given(st.sampled_from(TOP_FOLDERS), st.lists(st.from_regex(r"[a-z0-9]{1,5}", fullmatch=True), max_size=3))
def test_paths_are_ours_from_the_top_folder_on(top: str, rest: list[str]) -> None:
    wanted = "/".join([top, *rest])
    assert relative_path(f"/net/some/lab/{wanted}") == wanted
    assert relative_path(wanted) == wanted
    assert relative_path("D:\\lab\\" + wanted.replace("/", "\\")) == wanted


def test_a_path_without_a_folder_of_ours_keeps_its_name_only() -> None:
    assert relative_path("/elsewhere/model.pth") == "model.pth"
    assert relative_path("") == ""


@pytest.mark.parametrize("text", ["", "A01", "20240418", "20240418_A13_ch00_t0000", "nonsense_e01_t0000"])
def test_what_is_no_id_is_refused(text: str) -> None:
    for translate in (translate_embryo, translate_image, translate_snip):
        with pytest.raises(PermanentError):
            translate(text)
