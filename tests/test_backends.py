"""Backends: one entry makes a name usable; a slice holds the parameters of the chosen backend and no other's."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import pytest
from pydantic import ValidationError

from morphseq_dagster.backends import Backend, Backends, BackendSlice
from morphseq_dagster.detection.backends import DETECTORS
from morphseq_dagster.engine.contract.recipe import Recipe, load_recipe
from morphseq_dagster.engine.storage.hashing import hash_json
from morphseq_dagster.errors import PermanentError
from morphseq_dagster.latents.backends import EMBEDDERS, LAB_MODEL
from morphseq_dagster.parameters import Parameters
from morphseq_dagster.segmentation.backends import SEGMENTERS


class Table(Parameters):
    """Parameters in a table of their own."""

    low: float = 0.25


class Plain(Parameters):
    """Parameters of a backend without weights."""

    size: int = 3
    limits: Table = Table()


class Neural(Parameters):
    """Parameters of a backend with weights."""

    prompt: str = "fish"
    threshold: float = 0.5


@dataclass(frozen=True)
class Model:
    """Keeps what it was made of."""

    settings: Parameters
    weights: Path | None = field(default=None)


MODELS: Backends[Model] = Backends(
    "step.backend",
    Backend("plain", "Plain.", parameters=Plain, loader=f"{__name__}:Model"),
    Backend("neural", "Neural.", parameters=Neural, loader=f"{__name__}:Model", weights="big"),
    Backend("neural2", "Neural too.", parameters=Neural, weights="big", needs="a folder of weights"),
    Backend("bare", "Without parameters.", loader=f"{__name__}:Model"),
)


class Step(BackendSlice):
    """A step with a parameter beside the choice."""

    share: float = 0.5
    backends: ClassVar = MODELS


def resolve(folder: Path, *texts: str) -> Recipe:
    files = []
    for number, text in enumerate(texts):
        files.append(folder / f"{number}.toml")
        files[-1].write_text(text)
    return load_recipe(tuple(files), sections={"step": Step})


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, {"share": 0.5, "backend": "plain", "plain": {"size": 3, "limits": {"low": 0.25}}}),
        ({"backend": "bare"}, {"share": 0.5, "backend": "bare"}),
        (
            {"backend": "neural", "neural": {"prompt": "egg"}, "plain": {"size": 9}},
            {"share": 0.5, "backend": "neural", "neural": {"prompt": "egg", "threshold": 0.5}},
        ),
    ],
)
def test_slice_holds_the_chosen_backends_parameters_and_no_others(
    values: dict[str, Any], expected: dict[str, Any]
) -> None:
    read = Step.model_validate(values)
    assert read.model_dump(mode="json") == expected
    assert Step.model_validate(expected) == read
    assert read.parameters.model_dump(mode="json") == expected.get(read.backend, {})


def test_parameter_of_another_backend_leaves_the_key_alone_and_counts_once_that_one_is_chosen(tmp_path: Path) -> None:
    def key(*texts: str) -> str:
        return hash_json(resolve(tmp_path, *texts).slice("step"))

    assert key("") == key("[step]\nprompt = 'egg'\n") == key("[step.neural]\nthreshold = 0.1\n")
    chosen = "[step]\nbackend = 'neural'\n"
    keys = {key(""), key(chosen), key(f"{chosen}prompt = 'egg'\n"), key(f"{chosen}[step.neural]\nthreshold = 0.1\n")}
    assert len(keys) == 4
    assert key(chosen) == key(f"{chosen}[step.plain]\nsize = 9\n") == key(f"{chosen}size = 9\n")


@pytest.mark.parametrize(
    ("texts", "prompt"),
    [
        (["[step]\nprompt = 'a'\n[step.neural]\nprompt = 'b'\n"], "b"),
        (["[step.neural]\nprompt = 'b'\n", "[step]\nprompt = 'a'\n"], "a"),
        (["[step]\nprompt = 'a'\n", "[step.neural]\nprompt = 'b'\n"], "b"),
        (["[step]\nprompt = 'a'\n", "[step.neural2]\nprompt = 'b'\n"], "a"),
    ],
)
def test_table_of_a_backend_wins_in_a_file_and_the_later_file_over_the_earlier(
    tmp_path: Path, texts: list[str], prompt: str
) -> None:
    recipe = resolve(tmp_path, "[step]\nbackend = 'neural'\n", *texts)
    assert recipe.slice("step")["neural"]["prompt"] == prompt


def test_value_is_named_by_its_table_and_the_file_that_sets_it(tmp_path: Path) -> None:
    recipe = resolve(tmp_path, "[step]\nsize = 4\n")
    assert recipe.origins == {"step.plain.size": str(tmp_path / "0.toml")}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[step]\npromt = 'x'\n", "unknown step.promt (did you mean prompt?)"),
        ("[step.neural]\nthreshhold = 1\n", "unknown step.neural.threshhold (did you mean threshold?)"),
        ("[step.plain.limits]\nlov = 1\n", "unknown step.plain.limits.lov (did you mean low?)"),
        ("[step.plane]\nsize = 1\n", "unknown step.plane (did you mean plain?)"),
        ("[step]\nbackend = 'plane'\n", "step.backend: Input should be 'plain', 'neural', 'neural2' or 'bare'"),
        ("[step]\nbackend = ['plain']\n", "step.backend: Input should be 'plain', 'neural', 'neural2' or 'bare'"),
        ("[step.neural]\nthreshold = 'x'\n", "step.neural.threshold: "),
        ("[step]\nsize = 'x'\n", "step.plain.size: "),
        ("[step]\nplain = 3\n", "step.plain: "),
        ("[step]\nshare = 'x'\n", "step.share: "),
    ],
)
def test_mistake_is_named_also_where_the_backend_is_not_chosen(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(PermanentError) as caught:
        resolve(tmp_path, text)
    assert told in caught.value.found
    assert str(tmp_path) in caught.value.found


def test_list_of_known_names_stays_short(tmp_path: Path) -> None:
    path = tmp_path / "default.toml"
    path.write_text("[gdino_raw]\nxyz = 1\n")
    from morphseq_dagster.morphseq.recipes import GdinoRawRecipe

    with pytest.raises(PermanentError, match=r"backend, classical.* and \d+ more") as caught:
        load_recipe((path,), sections={"gdino_raw": GdinoRawRecipe})
    assert len(caught.value.found) < 400


def test_form_of_one_backend_refuses_another() -> None:
    form = type(Step.model_validate({}))
    with pytest.raises(ValidationError):
        form.model_validate({"backend": "neural"})


def test_model_is_made_of_its_parameters_and_of_weights_where_it_reads_some(tmp_path: Path) -> None:
    assert MODELS.load("plain") == Model(Plain())
    assert MODELS.load("plain", Plain(size=4)) == Model(Plain(size=4))
    asked = []

    def find(name: str) -> Path:
        asked.append(name)
        return tmp_path

    assert MODELS.load("neural", Neural(prompt="egg"), weights=find) == Model(Neural(prompt="egg"), tmp_path)
    assert asked == ["big_weights"]
    with pytest.raises(PermanentError, match=r"no `big` in the section \[weights\]"):
        MODELS.load("neural")


@pytest.mark.parametrize(
    ("backends", "name"),
    [
        (DETECTORS, "groundingdino"),
        (DETECTORS, "hf_groundingdino"),
        (SEGMENTERS, "sam2"),
        (SEGMENTERS, "hf_sam2"),
        (EMBEDDERS, LAB_MODEL),
        (MODELS, "neural2"),
    ],
)
def test_backend_that_cannot_be_loaded_is_an_error_and_no_fallback(backends: Backends[Any], name: str) -> None:
    with pytest.raises(PermanentError, match=f'= "{backends.default}"') as caught:
        backends.load(name)
    assert repr(name) in caught.value.found
    assert backends.entries[name].needs in caught.value.expected


@pytest.mark.parametrize("backends", [DETECTORS, SEGMENTERS, EMBEDDERS])
def test_default_needs_no_weights_and_calls_itself_by_its_name(backends: Backends[Any]) -> None:
    identity = backends.load(backends.default).identity()
    assert (identity.name, identity.weights_sha256) == (backends.default, None)
    assert backends.weights_of(backends.default) == ""


@pytest.mark.parametrize("name", ["", "Classical", "dct_101"])
@pytest.mark.parametrize("backends", [DETECTORS, SEGMENTERS, EMBEDDERS])
def test_unknown_name_lists_the_known_ones(backends: Backends[Any], name: str) -> None:
    with pytest.raises(PermanentError) as caught:
        backends.load(name)
    assert all(known in caught.value.expected for known in backends.entries)
