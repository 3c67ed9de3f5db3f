from __future__ import annotations

import pytest

from morphseq_dagster.detection.backends import DETECTOR_NAMES, load_detector
from morphseq_dagster.detection.parameters import ClassicalDetectorSettings
from morphseq_dagster.errors import PermanentError


def test_classical_is_loaded_with_its_settings_and_has_no_weights() -> None:
    settings = ClassicalDetectorSettings(rim_mad=7.0)

    detector = load_detector("classical", settings=settings)

    assert (detector.identity().name, detector.identity().weights_sha256) == ("classical", None)
    assert getattr(detector, "settings") == settings  # noqa: B009 - the protocol does not promise settings


@pytest.mark.parametrize("name", ["groundingdino", "hf_groundingdino"])
def test_backend_that_cannot_be_loaded_is_an_error_and_no_fallback(name: str) -> None:
    with pytest.raises(PermanentError, match="classical") as caught:
        load_detector(name)

    assert name in caught.value.found


def test_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(PermanentError) as caught:
        load_detector("Classical")

    assert all(name in caught.value.expected for name in DETECTOR_NAMES)
