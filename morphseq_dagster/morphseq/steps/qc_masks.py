"""Step `qc_masks`: masks of yolk, focus, bubbles and viability; without weights an explicit `unavailable`.

Holds the honest statement. Consumers treat every flag that needs such a mask as unknown.
"""

from __future__ import annotations

from morphseq_dagster.engine.contract.context import Account, StepContext
from morphseq_dagster.engine.contract.step import StepResult
from morphseq_dagster.errors import PermanentError
from morphseq_dagster.morphseq.contracts.ff_images import FfImages
from morphseq_dagster.morphseq.contracts.qc_masks import MODELS, ModelState, QcMasks
from morphseq_dagster.morphseq.recipes import QcMasksRecipe


def run(context: StepContext) -> StepResult:
    """Say which QC masks there are."""
    recipe = context.recipe(QcMasksRecipe)
    if recipe.backend != "unavailable":
        raise PermanentError(
            expected="the backend `unavailable`",
            found=repr(recipe.backend),
            where="recipe qc_masks.backend",
            remedy="leave the parameter out; the lab's weights are not public and no other model is built in",
        )
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
