"""Step `latents`: the latent embedding of every snip, under the name of the model that made it.

Snips are read in batches and embedded in `latents`.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from morphseq_dagster.engine.contract.context import Account, StepContext
from morphseq_dagster.engine.contract.progress import Progress
from morphseq_dagster.engine.contract.step import StepResult
from morphseq_dagster.latents.backends import EMBEDDERS, check_output_name
from morphseq_dagster.morphseq.contracts.latents import CONTRACT
from morphseq_dagster.morphseq.contracts.snips import Snips
from morphseq_dagster.morphseq.recipes import LatentsRecipe
from morphseq_dagster.morphseq.steps.image_sets import read_picture

_BATCH = 64
"""Snips in memory at once (spec, science 7)."""


def run(context: StepContext) -> StepResult:
    """Embed the snips of an experiment."""
    recipe = context.recipe(LatentsRecipe)
    manifest = context.document("snips", Snips)
    embedder = EMBEDDERS.load(recipe.model, weights=context.weights)
    identity = embedder.identity()
    check_output_name(recipe.model, identity=identity)
    names = list(manifest.snips)
    vectors = [np.empty((0, embedder.latent_dim), dtype=np.float32)]
    for start in range(0, len(names), _BATCH):
        batch = names[start : start + _BATCH]
        pictures = [read_picture(context, manifest=manifest, path=manifest.snips[n].path) for n in batch]
        vectors.append(embedder.embed(np.stack(pictures)))
        context.progress(Progress(context.request.step, min(start + _BATCH, len(names)), len(names), batch[-1]))
    table = pd.DataFrame(np.concatenate(vectors), columns=list(embedder.column_names))
    ids = pd.DataFrame(
        {
            "experiment_date": [context.experiment] * len(names),
            "embryo_id": [manifest.snips[name].embryo_id for name in names],
            "snip_id": names,
        }
    )
    account = Account(
        counts={"snips": len(names), "dimensions": embedder.latent_dim},
        backend=identity,
    )
    return context.stage_table(pd.concat([ids, table], axis=1), contract=CONTRACT, account=account)
