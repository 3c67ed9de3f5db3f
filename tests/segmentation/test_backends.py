from __future__ import annotations

import pytest

from morphseq_dagster.errors import PermanentError
from morphseq_dagster.segmentation.backends import SEGMENTER_NAMES, load_segmenter


def test_classical_is_loaded_and_has_no_weights() -> None:
    segmenter = load_segmenter("classical")

    assert (segmenter.identity().name, segmenter.identity().weights_sha256) == ("classical", None)


@pytest.mark.parametrize("name", ["sam2", "hf_sam2"])
def test_backend_that_cannot_be_loaded_is_an_error_and_no_fallback(name: str) -> None:
    with pytest.raises(PermanentError, match="classical") as caught:
        load_segmenter(name)

    assert name in caught.value.found


def test_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(PermanentError) as caught:
        load_segmenter("")

    assert all(name in caught.value.expected for name in SEGMENTER_NAMES)
