"""Recipes: merging in rising precedence, origins, and every mistake named at once."""

from __future__ import annotations

import contextlib
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from morphseq_dagster.engine.contract.recipe import load_recipe
from morphseq_dagster.engine.storage.hashing import hash_json
from morphseq_dagster.errors import PermanentError
from morphseq_dagster.parameters import Parameters


class Inner(Parameters):
    """Parameters in a table of their own."""

    low: float = 0.25
    high: float = 0.75


class Blur(Parameters):
    """A step with parameters of all kinds."""

    sigma: float = 1.5
    passes: int = 2
    inverted: bool = False
    name: str = "plain"
    limits: Inner = Inner()
    maybe: Inner | None = None
    several: tuple[Inner, ...] = ()


class Crop(Parameters):
    """A second step."""

    size: int = 256


SECTIONS: dict[str, type[Parameters]] = {"blur": Blur, "crop": Crop}


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_without_files_all_values_are_defaults(tmp_path: Path) -> None:
    recipe = load_recipe((tmp_path / "default.toml", tmp_path / "exp.toml"), sections=SECTIONS)
    assert recipe.slices == {"blur": Blur(), "crop": Crop()}
    assert recipe.origins == {}
    assert recipe.slice("crop") == {"size": 256}


def test_the_experiment_wins_over_the_lab_value_by_value(tmp_path: Path) -> None:
    lab = write(tmp_path, "default.toml", "[blur]\nsigma = 3\npasses = 4\n[blur.limits]\nlow = 0.1\nhigh = 0.9\n")
    own = write(tmp_path, "exp.toml", "[blur]\nsigma = 5.0\n[blur.limits]\nlow = 0.2\n")
    recipe = load_recipe((lab, own), sections=SECTIONS)
    assert recipe.slices["blur"] == Blur(sigma=5.0, passes=4, limits=Inner(low=0.2, high=0.9))
    assert recipe.slices["crop"] == Crop()
    assert recipe.origins == {
        "blur.sigma": str(own),
        "blur.passes": str(lab),
        "blur.limits.low": str(own),
        "blur.limits.high": str(lab),
    }


def test_equal_values_in_other_words_give_the_same_slice(tmp_path: Path) -> None:
    one = write(tmp_path, "one.toml", "[blur]\nsigma = 3\nlimits = {low = 0, high = 1}\n")
    two = write(tmp_path, "two.toml", "# a remark\n[blur.limits]\nhigh = 1.0\nlow = 0.0\n[blur]\nsigma = 3.00\n")
    hashes = {hash_json(load_recipe((path,), sections=SECTIONS).slice("blur")) for path in (one, two)}
    assert len(hashes) == 1


def test_a_value_written_out_that_equals_the_default_changes_no_slice(tmp_path: Path) -> None:
    path = write(tmp_path, "x.toml", "[crop]\nsize = 256\n")
    assert load_recipe((path,), sections=SECTIONS).slice("crop") == load_recipe((), sections=SECTIONS).slice("crop")


def test_all_mistakes_of_all_files_are_named_at_once_with_the_nearest_name(tmp_path: Path) -> None:
    lab = write(tmp_path, "default.toml", "[blurr]\nsigma = 1\n[blur]\nsigmma = 2\npasses = 'many'\n")
    own = write(tmp_path, "exp.toml", "crop = 3\n[blur.limits]\nlowest = 0.2\nhigh = 'x'\n")
    with pytest.raises(PermanentError) as caught:
        load_recipe((lab, own), sections=SECTIONS)
    found = caught.value.found
    assert f"{lab}: unknown section [blurr] (did you mean blur?)" in found
    assert f"{lab}: unknown blur.sigmma (did you mean sigma?)" in found
    assert f"{own}: crop must be a section" in found
    assert f"{own}: unknown blur.limits.lowest (did you mean low?)" in found
    assert f"{lab}: blur.passes: " in found
    assert f"{own}: blur.limits.high: " in found
    assert str(lab) in caught.value.where
    assert str(own) in caught.value.where


@pytest.mark.parametrize("text", ["[blur.maybe]\nlowest = 0.1\n", "[[blur.several]]\nlowest = 0.1\n"])
def test_unknown_name_inside_an_optional_or_repeated_table_is_named(tmp_path: Path, text: str) -> None:
    path = write(tmp_path, "exp.toml", text)
    with pytest.raises(PermanentError, match=r"blur\.(maybe|several\.0)\.lowest"):
        load_recipe((path,), sections=SECTIONS)


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_value_that_is_no_number_is_refused_because_no_key_can_carry_it(tmp_path: Path, value: str) -> None:
    path = write(tmp_path, "exp.toml", f"[blur]\nsigma = {value}\n")
    with pytest.raises(PermanentError, match=r"blur\.sigma"):
        load_recipe((path,), sections=SECTIONS)


@pytest.mark.parametrize("data", [b"[blur\n", b"sigma = \n", b"\xff\xfe", b"a = 1\na = 2\n"])
def test_file_that_is_no_toml_is_named(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "exp.toml"
    path.write_bytes(data)
    with pytest.raises(PermanentError) as caught:
        load_recipe((path,), sections=SECTIONS)
    assert caught.value.where == str(path)


@given(st.binary(max_size=60))
def test_any_bytes_are_a_recipe_or_a_named_error(data: bytes) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "exp.toml"
        path.write_bytes(data)
        with contextlib.suppress(PermanentError):
            assert set(load_recipe((path,), sections=SECTIONS).slices) == set(SECTIONS)


layer = st.fixed_dictionaries(
    {},
    optional={
        "sigma": st.floats(0, 10, allow_nan=False).map(lambda v: round(v, 3)),
        "passes": st.integers(0, 9),
        "limits": st.fixed_dictionaries(
            {}, optional={"low": st.integers(0, 3).map(float), "high": st.integers(4, 9).map(float)}
        ),
    },
)


def to_toml(values: dict[str, Any]) -> str:
    inner = values.get("limits")
    plain = "".join(f"{name} = {value}\n" for name, value in values.items() if name != "limits")
    table = "" if inner is None else "[blur.limits]\n" + "".join(f"{n} = {v}\n" for n, v in inner.items())
    text = "[blur]\n" + plain + table
    assert tomllib.loads(text)["blur"] == values
    return text


@given(st.lists(layer, max_size=4))
def test_of_every_value_the_last_file_that_names_it_wins(layers: list[dict[str, Any]]) -> None:
    import tempfile

    flat: dict[str, tuple[Any, int]] = {}
    for number, values in enumerate(layers):
        for name, value in values.items():
            for key, inner in (
                [(f"limits.{n}", v) for n, v in value.items()] if isinstance(value, dict) else [(name, value)]
            ):
                flat[key] = (inner, number)
    with tempfile.TemporaryDirectory() as folder:
        files = tuple(write(Path(folder), f"{number}.toml", to_toml(values)) for number, values in enumerate(layers))
        recipe = load_recipe(files, sections=SECTIONS)
    slice_ = recipe.slice("blur")
    expected = Blur().model_dump(mode="json")
    for key, (value, _) in flat.items():
        target = expected["limits"] if key.startswith("limits.") else expected
        target[key.removeprefix("limits.")] = value
    assert slice_ == expected
    assert recipe.origins == {f"blur.{key}": str(files[number]) for key, (_, number) in flat.items()}
