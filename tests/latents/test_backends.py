"""Numbers are filed under the name of the model that made them, and under no other."""

from __future__ import annotations

from dataclasses import replace

import pytest

from morphseq_dagster.errors import PermanentError
from morphseq_dagster.latents.backends import EMBEDDERS, LAB_MODEL, check_output_name
from morphseq_dagster.morphseq.recipes import LatentsRecipe


def test_default_is_the_weight_free_model_under_its_own_name() -> None:
<<<<<<< HEAD
    assert load_embedder(LatentsRecipe().model).identity().name == "dct_100"


def test_the_labs_model_without_weights_is_an_error_with_a_remedy() -> None:
    with pytest.raises(PermanentError) as caught:
        load_embedder(LAB_MODEL)
    assert "weights" in caught.value.expected
    assert "dct_100" in caught.value.remedy


def test_an_unknown_name_is_an_error_that_names_what_there_is() -> None:
    with pytest.raises(PermanentError, match="dct_100"):
        load_embedder("dct_101")
=======
    assert LatentsRecipe().model == EMBEDDERS.load("dct_100").name == "dct_100"
>>>>>>> ba0cd3a2071a5b55082578ed12b4a214e24da5d0


def test_numbers_are_filed_under_the_name_of_what_made_them() -> None:
    identity = EMBEDDERS.load("dct_100").identity()
    check_output_name("dct_100", identity=identity)
    for name in (LAB_MODEL, "dct_64"):
        with pytest.raises(PermanentError, match="file them under dct_100"):
            check_output_name(name, identity=identity)
    posing = replace(identity, name=LAB_MODEL)
    with pytest.raises(PermanentError, match="with its weights"):
        check_output_name(LAB_MODEL, identity=posing)
    check_output_name(LAB_MODEL, identity=replace(posing, weights_sha256="0" * 64))
