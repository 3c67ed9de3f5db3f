"""The step contract: what enters a request's key, and what a pipeline refuses."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from morphseq_dagster.engine.contract.step import StepRequest, StepSpec
from morphseq_dagster.engine.layout import Artifact
from morphseq_dagster.engine.pipeline import Pipeline
from morphseq_dagster.engine.storage.records import InputRead
from morphseq_dagster.testing.toy import TOY_PIPELINE, run_letters

INPUT = InputRead(name="letters", path="a/b.json", sha256="1" * 64)
REQUEST = StepRequest(
    experiment="20240418",
    step="lengths",
    version=1,
    recipe={"sigma": 1.5},
    inputs=(INPUT,),
    output="tables/x.csv",
    data_root="/data",
)


@pytest.mark.parametrize(
    "change",
    [
        {"experiment": "20240419"},
        {"step": "letters"},
        {"version": 2},
        {"recipe": {"sigma": 1.6}},
        {"recipe": {}},
        {"inputs": ()},
        {"inputs": (INPUT.model_copy(update={"sha256": "2" * 64}),)},
        {"inputs": (INPUT.model_copy(update={"sha256": None}),)},
        {"inputs": (INPUT.model_copy(update={"name": "words"}),)},
        {"output": "tables/y.csv"},
    ],
)
def test_whatever_changes_the_result_changes_the_key(change: dict[str, Any]) -> None:
    assert REQUEST.model_copy(update=change).key != REQUEST.key


@pytest.mark.parametrize(
    "change",
    [
        {"data_root": "/elsewhere"},
        {"run_id": "r"},
        {"force": True},
        {"inputs": (INPUT.model_copy(update={"path": "moved/b.json"}),)},
    ],
)
def test_place_and_run_do_not_change_the_key(change: dict[str, Any]) -> None:
    assert REQUEST.model_copy(update=change).key == REQUEST.key


def test_key_is_the_same_in_every_release_that_does_not_say_otherwise() -> None:
    # A new way to hash makes every artifact of every lab stale: it must not happen by accident.
    assert REQUEST.key == "1c45f19f84d67ac1c1bb189064a6d119a96cb600f36655cfb447a4a311d36324"


def test_request_survives_its_way_through_a_file() -> None:
    assert StepRequest.model_validate_json(REQUEST.model_dump_json()) == REQUEST
    assert StepRequest.model_validate_json(REQUEST.model_dump_json()).key == REQUEST.key


@given(
    st.dictionaries(
        st.text(max_size=4), st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=3)
    )
)
def test_key_of_any_recipe_survives_its_way_through_a_file(recipe: dict[str, Any]) -> None:
    request = REQUEST.model_copy(update={"recipe": recipe})
    assert StepRequest.model_validate_json(request.model_dump_json()).key == request.key


def test_request_with_an_unknown_field_is_refused() -> None:
    with pytest.raises(ValidationError):
        StepRequest.model_validate({**REQUEST.model_dump(), "surplus": 1})


def spec(name: str, *inputs: str) -> StepSpec:
    return StepSpec(name, 1, "module:function", tuple(inputs), "group")


def artifacts(*names: str) -> tuple[Artifact, ...]:
    return tuple(Artifact(name, "table", f"{name}_{{exp}}.csv", "A table.", "module:CONTRACT") for name in names)


CHAIN = Pipeline(
    "chain",
    (spec("a"), spec("b", "a"), spec("c", "a"), spec("d", "b", "c"), spec("e")),
    artifacts(*"abcde"),
    TOY_PIPELINE.keys,
)


@pytest.mark.parametrize(
    ("steps", "word"),
    [
        ((spec("b", "a"), spec("a")), "'a'"),
        ((spec("a", "a"),), "'a'"),
        ((spec("a", "nowhere"),), "nowhere"),
        ((spec("x"),), "no artifact"),
        ((spec("a"), spec("a")), "twice"),
    ],
)
def test_pipeline_that_cannot_run_is_refused(steps: tuple[StepSpec, ...], word: str) -> None:
    with pytest.raises(ValueError, match=word):
        Pipeline("broken", steps, artifacts("a", "b"), TOY_PIPELINE.keys)


@pytest.mark.parametrize(
    ("names", "ancestors", "descendants"),
    [("a", "a", "abcd"), ("b", "ab", "bd"), ("d", "abcd", "d"), ("e", "e", "e"), ("be", "abe", "bde"), ("", "", "")],
)
def test_ancestors_and_descendants(names: str, ancestors: str, descendants: str) -> None:
    assert CHAIN.ancestors(set(names)) == set(ancestors)
    assert CHAIN.descendants(set(names)) == set(descendants)


def test_body_is_found_by_its_name() -> None:
    assert TOY_PIPELINE.spec("letters").load() is run_letters
    with pytest.raises(KeyError):
        TOY_PIPELINE.spec("nothing")
