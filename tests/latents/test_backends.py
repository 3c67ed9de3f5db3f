"""Numbers are filed under the name of the model that made them, and under no other."""

from __future__ import annotations

import pytest

from morphseq_dagster.errors import PermanentError
from morphseq_dagster.latents.backends import EMBEDDERS, LAB_MODEL, check_output_name
from morphseq_dagster.morphseq.recipes import LatentsRecipe


def test_default_is_the_weight_free_model_under_its_own_name() -> None:
    assert LatentsRecipe().model == EMBEDDERS.load("dct_100").identity().name == "dct_100"


def test_numbers_are_filed_under_the_name_of_what_made_them() -> None:
    identity = EMBEDDERS.load("dct_100").identity()
    check_output_name("dct_100", identity=identity)
    for name in (LAB_MODEL, "dct_64"):
        with pytest.raises(PermanentError, match="file them under dct_100"):
            check_output_name(name, identity=identity)
    posing = identity.model_copy(update={"name": LAB_MODEL})
    with pytest.raises(PermanentError, match="with its weights"):
        check_output_name(LAB_MODEL, identity=posing)
    check_output_name(LAB_MODEL, identity=posing.model_copy(update={"weights_sha256": "0" * 64}))
