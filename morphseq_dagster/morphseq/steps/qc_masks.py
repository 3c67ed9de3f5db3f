"""Step `qc_masks`: masks of yolk, focus, bubbles and viability; without weights an explicit `unavailable`.

Every later flag that needs such a mask is unknown then.
"""

from __future__ import annotations

from morphseq_dagster.engine.contract.context import Account, StepContext
from morphseq_dagster.engine.contract.step import StepResult
from morphseq_dagster.morphseq.contracts.ff_images import FfImages
from morphseq_dagster.morphseq.contracts.qc_masks import MODELS, ModelState, QcMasks


def run(context: StepContext) -> StepResult:
    """Say which QC masks there are."""
    frames = context.document("ff_images", FfImages)
    reason = "no weights were given"
    document = QcMasks(
        experiment_id=context.experiment,
        status="unavailable",
        models={name: ModelState(status="unavailable", reason=reason) for name in MODELS},
    )
    account = Account(
        status="unavailable",
        counts={"frames": len(frames.frames), "models": 0},
        warnings=(f"QC masks are unavailable: {reason}; flags that need them are unknown",),
    )
    return context.stage_document(document, account=account)
