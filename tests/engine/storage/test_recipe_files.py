from __future__ import annotations

from pathlib import Path

import pytest

from morphseq_dagster.engine.storage.recipe_files import check_parameter, set_parameter
from morphseq_dagster.errors import PermanentError
from morphseq_dagster.testing.toy import LettersRecipe


def set_model(path: Path, value: str = "new") -> bool:
    return set_parameter(path, section="latents", name="model", value=value)


def test_file_and_folder_are_made(tmp_path: Path) -> None:
    path = tmp_path / "recipes" / "20240101.toml"
    assert set_model(path)
    assert path.read_text() == '[latents]\nmodel = "new"\n'


def test_everything_else_of_the_file_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text('# mine\n[gdino_detections]\niou_threshold = 0.40  # why\n\n[latents]\nmodel = "old" # note\n')
    assert set_model(path)
    assert path.read_text() == (
        '# mine\n[gdino_detections]\niou_threshold = 0.40  # why\n\n[latents]\nmodel = "new" # note\n'
    )


def test_equal_value_writes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    set_model(path)
    before = path.stat()
    assert not set_model(path)
    assert path.stat().st_mtime_ns == before.st_mtime_ns
    assert path.stat().st_ino == before.st_ino


@pytest.mark.parametrize("content", [b"[latents\n", b"\xff", b'latents = "text"\n'])
def test_file_that_is_no_recipe_is_refused_and_left_as_it_is(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "recipe.toml"
    path.write_bytes(content)
    with pytest.raises(PermanentError, match=r"recipe\.toml"):
        set_model(path)
    assert path.read_bytes() == content


def test_value_that_the_recipe_does_not_allow_is_refused() -> None:
    check_parameter(LettersRecipe, name="upper", value="true")
    with pytest.raises(PermanentError, match="'perhaps'"):
        check_parameter(LettersRecipe, name="upper", value="perhaps")
