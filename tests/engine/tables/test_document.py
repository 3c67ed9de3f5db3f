"""JSON documents: one way to write, and every violation named on reading."""

from __future__ import annotations

import contextlib
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field

from morphseq_dagster.engine.tables.document import DocumentPart, encode_document, parse_document
from morphseq_dagster.errors import ContractError


class Box(DocumentPart):
    """A part with an alias and a bound."""

    label: str
    score: float = Field(ge=0)
    class_: int = Field(default=0, alias="class")


class Page(DocumentPart):
    """A document."""

    title: str
    boxes: tuple[Box, ...] = ()
    notes: dict[str, float | None] = {}  # noqa: RUF012 - a pydantic field, copied per instance


def page(*scores: float) -> Page:
    return Page(title="µ", boxes=tuple(Box(label="e", score=s, **{"class": 2}) for s in scores), notes={"x": None})


def test_document_is_written_readably_with_aliases_in_the_order_of_the_model() -> None:
    assert encode_document(page(0.5)).decode() == (
        "{\n"
        ' "title": "µ",\n'
        ' "boxes": [\n  {\n   "label": "e",\n   "score": 0.5,\n   "class": 2\n  }\n ],\n'
        ' "notes": {\n  "x": null\n }\n'
        "}\n"
    )


text = st.text(st.characters(exclude_categories=["Cs"]), max_size=10)


@given(
    text,
    st.lists(st.tuples(text, st.floats(0, allow_infinity=False), st.integers()), max_size=4),
    st.dictionaries(text, st.none() | st.floats(allow_nan=False, allow_infinity=False), max_size=3),
)
def test_document_written_and_read_again_is_equal_and_gives_equal_bytes(
    title: str, boxes: list[tuple[str, float, int]], notes: dict[str, float | None]
) -> None:
    parts = tuple(Box(label=label, score=score, **{"class": number}) for label, score, number in boxes)
    document = Page(title=title, boxes=parts, notes=notes)
    data = encode_document(document)
    back = parse_document(Page, data, where="p")
    assert back == document
    assert encode_document(back) == data


def test_all_violations_are_named_with_their_place() -> None:
    data = b'{"boxes": [{"label": 3, "score": -1}, {"label": "e", "score": 1, "colour": "red"}], "notes": {"y": "x"}}'
    with pytest.raises(ContractError) as caught:
        parse_document(Page, data, where="page.json")
    for place in ("title: ", "boxes.0.label: ", "boxes.0.score: ", "boxes.1.colour: ", "notes.y"):
        assert place in caught.value.found
    assert caught.value.where == "page.json"


@given(st.binary(max_size=60))
def test_any_bytes_are_a_document_or_a_contract_error(data: bytes) -> None:
    with contextlib.suppress(ContractError):
        assert isinstance(parse_document(Page, data, where="p"), Page)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_value_that_json_lacks_is_a_contract_error_that_names_its_place(value: float) -> None:
    document = Page.model_construct(title="t", boxes=(), notes={"length_um": value})
    with pytest.raises(ContractError) as caught:
        encode_document(document)
    assert "notes.length_um" in caught.value.found
    assert "Page" in caught.value.expected


def test_truncated_document_is_a_contract_error() -> None:
    data = encode_document(page(0.5, 0.25))
    for length in range(len(data) - 1):
        with pytest.raises(ContractError):
            parse_document(Page, data[:length], where="p")
