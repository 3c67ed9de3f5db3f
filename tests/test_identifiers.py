"""The grammar of ids (spec, orchestration 2.1 and 2.2)."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from morphseq_dagster.errors import PermanentError
from morphseq_dagster.identifiers import (
    MAX_EXPERIMENT_LENGTH,
    ImageId,
    SnipId,
    check_experiment,
    experiment_date,
    mint_embryo,
    mint_image,
    mint_snip,
    mint_video,
    parse_embryo,
    parse_image,
    parse_snip,
    parse_video,
    parse_well,
    refuse_experiment,
)

# Names of real experiments that the spec quotes; the second half would be refused by the older validator, because
# they end like a frame or a time.
REAL_NAMES = (
    "20240418",
    "20240411",
    "20240509",
    "20240509_18ss",
    "20250529_36hpf_ctrl_atf6",
    "20250529_36hpf_ctrl_atf6_extras",
    "20250612_30hpf_ctrl_atf6",
    "20251017_part1",
    "20250515_part2",
    "20251017_combined",
    "20260324_cep290_48hpf_plate01_t01",
    "20250622_chem_35C_T00_1223_check",
    "20250622_chem_28C_T00_1425",
    "20260415_cep290_30to48hpf_plate02_t01",
    "20250716_exp_28C_1014",
    "20250101_x_e01",
    "20250101_x_t0001",
    "20250101_24hpf-to-48hpf",
)
HOSTILE_NAMES = (
    "",
    ".",
    "..",
    "../20240418",
    "20240418/..",
    "20240418/../../etc",
    "20240418\\..",
    "/20240418",
    "20240418/",
    "20240418\n",
    "\n20240418",
    "20240418\0",
    " 20240418",
    "20240418 ",
    "20240418 copy",
    "20240418;rm -rf ~",
    "20240418$(reboot)",
    "20240418`id`",
    "20240418|x",
    "20240418&",
    "20240418'",
    '20240418"',
    "20240418*",
    "20240418?",
    "20240418[0]",
    "20240418{exp}",
    "20240418%s",
    "-20240418",
    "20240418_--flag",
    "20240418_a--b",
    "20240418_",
    "20240418__a",
    "_20240418",
    "ignore_20240418",
    ".20240418",
    "20240418.tmp",
    "20240418.a",
    "\uff12\uff10\uff12\uff14\uff10\uff14\uff11\uff18",
    "2024041\u0668",
    "20240418_é",
    "20240418_\u200b",
    "2024041",
    "202404180",
    "19990418",
    "20241301",
    "20240400",
    "20240432",
    "cohort",
    "20240418_A01",
    "20250612_30hpf_ctrl_H12",
)
WELLS = [f"{row}{column:02d}" for row in "ABCDEFGH" for column in range(1, 13)]

token = st.from_regex(r"[0-9A-Za-z]{1,6}(?:-[0-9A-Za-z]{1,4}){0,2}", fullmatch=True)
experiment = st.builds(
    lambda y, m, d, tokens: "_".join([f"20{y:02d}{m:02d}{d:02d}", *tokens]),
    st.integers(0, 99),
    st.integers(1, 12),
    st.integers(1, 31),
    st.lists(token, max_size=5),
).filter(lambda name: not re.search(r"_[A-H](?:0[1-9]|1[0-2])\Z", name))
well = st.sampled_from(WELLS)
frame = st.integers(0, 9999)
number = st.integers(1, 99)


@pytest.mark.parametrize("name", REAL_NAMES)
def test_real_name_is_an_experiment(name: str) -> None:
    assert refuse_experiment(name) is None
    assert check_experiment(name) == name
    assert experiment_date(name) == name[:8]


@pytest.mark.parametrize("name", HOSTILE_NAMES)
def test_hostile_or_malformed_name_is_refused_with_a_reason(name: str) -> None:
    reason = refuse_experiment(name)
    assert reason
    with pytest.raises(PermanentError) as caught:
        check_experiment(name)
    assert repr(name) in caught.value.where
    assert reason in caught.value.found


def test_name_that_ends_like_a_well_names_the_well() -> None:
    assert "B07" in str(refuse_experiment("20240418_plate_B07"))
    # A well in the middle or a token that only ends in one is no trouble.
    assert refuse_experiment("20240418_B07_rescue") is None
    assert refuse_experiment("20240418_plateB07") is None


def test_name_too_long_for_file_names_is_refused() -> None:
    longest = "20240418_" + "a" * (MAX_EXPERIMENT_LENGTH - 9)
    assert refuse_experiment(longest) is None
    assert "121" in str(refuse_experiment(longest + "a"))


@given(st.text())
def test_every_text_is_accepted_or_refused_and_accepted_ones_are_plain_file_names(text: str) -> None:
    if refuse_experiment(text) is None:
        assert text.isascii()
        assert re.fullmatch(r"\d{8}[0-9A-Za-z_-]*", text)


@pytest.mark.parametrize("name", REAL_NAMES)
@pytest.mark.parametrize("place", ["A01", "C10", "H12"])
def test_all_forms_of_a_real_name_parse_to_their_parts(name: str, place: str) -> None:
    video = mint_video(name, well=place)
    embryo = mint_embryo(name, well=place, number=2)
    assert parse_video(video) == (name, place)
    assert parse_image(mint_image(name, well=place, frame=42)) == ImageId(name, place, 0, 42)
    assert parse_image(f"{video}_t0007") == ImageId(name, place, 0, 7)
    assert parse_embryo(embryo) == (name, place, 2)
    for form in ("_t0003", "_s0003", "_0003"):
        assert parse_snip(embryo + form) == SnipId(name, place, 2, 3)


def test_minted_ids_are_written_as_the_spec_shows() -> None:
    assert mint_image("20240418", well="A01", frame=0) == "20240418_A01_ch00_t0000"
    assert mint_image("20240418", well="A01", frame=12, channel=1) == "20240418_A01_ch01_t0012"
    assert mint_embryo("20251017_part1", well="C10", number=1) == "20251017_part1_C10_e01"
    assert mint_snip("20240418_A01_e01", frame=0) == "20240418_A01_e01_t0000"


@given(experiment, well, frame, number, st.integers(0, 99))
def test_minted_ids_parse_back(name: str, place: str, time: int, embryo: int, channel: int) -> None:
    if refuse_experiment(name) is not None:
        assert len(name) > MAX_EXPERIMENT_LENGTH
        return
    assert parse_video(mint_video(name, well=place)) == (name, place)
    assert parse_image(mint_image(name, well=place, frame=time, channel=channel)) == ImageId(name, place, channel, time)
    embryo_id = mint_embryo(name, well=place, number=embryo)
    assert parse_embryo(embryo_id) == (name, place, embryo)
    assert parse_snip(mint_snip(embryo_id, frame=time)) == SnipId(name, place, embryo, time)


@given(one=experiment, other=experiment, a=well, b=well, i=number, j=number, s=frame, t=frame)
def test_different_parts_give_different_snip_ids(
    *, one: str, other: str, a: str, b: str, i: int, j: int, s: int, t: int
) -> None:
    first = mint_snip(mint_embryo(one, well=a, number=i), frame=s)
    second = mint_snip(mint_embryo(other, well=b, number=j), frame=t)
    assert (first == second) == ((one, a, i, s) == (other, b, j, t))


@pytest.mark.parametrize("parse", [parse_video, parse_image, parse_embryo, parse_snip])
@pytest.mark.parametrize(
    "text",
    ["", "20240418", "20240418_I01", "20240418_A13", "20240418_A00", "20240418_A1", "../20240418_A01", "20240418_A01\n",
     "20240418_A01_e01_t00001", "20240418_A01_e1_t0001", "20240418_A01_ch0_t0001", "20240418_A01_e01_x0001"],
)  # fmt: skip
def test_wrong_id_is_refused_by_every_parser(parse, text: str) -> None:  # noqa: ANN001 - four parsers
    with pytest.raises(PermanentError) as caught:
        parse(text)
    assert repr(text) in caught.value.found


@given(st.text())
def test_parsers_raise_nothing_but_their_error(text: str) -> None:
    for parse in (parse_video, parse_image, parse_embryo, parse_snip, parse_well):
        try:
            parse(text)
        except PermanentError:
            continue


@pytest.mark.parametrize(
    ("text", "name"), [("A01", "A01"), ("a1", "A01"), ("h12", "H12"), ("B3", "B03"), (" C10 ", "C10")]
)
def test_well_is_normalised(text: str, name: str) -> None:
    assert parse_well(text) == name


@pytest.mark.parametrize(
    "text", ["", "A", "1", "I01", "A0", "A00", "A13", "A001", "AA1", "A1x", "A-1", "A\uff11", "\uff2101"]
)
def test_what_is_no_well_is_refused(text: str) -> None:
    with pytest.raises(PermanentError, match=r"A01\.\.H12"):
        parse_well(text)
