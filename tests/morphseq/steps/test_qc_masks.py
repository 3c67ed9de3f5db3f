"""QC masks: without weights an explicit `unavailable`, never an empty success."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from morphseq_dagster.morphseq.contracts.qc_masks import QcMasks
from morphseq_dagster.testing.documents import make_ff_images, make_frame
from morphseq_dagster.testing.step_bench import StepBench, read_document


def test_document_names_every_model_as_unavailable_with_the_reason(bench: StepBench) -> None:
    bench.supply("ff_images", make_ff_images("20250529_ctrl", (make_frame("A01", 0),)))
    result = bench.run("qc_masks")
    document = read_document(result, QcMasks)
    assert document.status == "unavailable"
    assert list(document.models) == [
        "mask_v0_0100",
        "yolk_v1_0050",
        "focus_v0_0100",
        "bubble_v0_0100",
        "via_v1_0100",
    ]
    assert {(state.status, state.reason) for state in document.models.values()} == {
        ("unavailable", "no weights were given")
    }
    assert result.staged.status == "unavailable"
    assert result.staged.counts == {"frames": 1, "models": 0}
    assert "unknown" in result.staged.warnings[0]


def test_another_backend_is_refused_never_replaced(bench: StepBench) -> None:
    bench.supply("ff_images", make_ff_images("20250529_ctrl", (make_frame("A01", 0),)))
    with pytest.raises(ValidationError, match="unavailable"):
        bench.run("qc_masks", recipe={"backend": "unet"})
