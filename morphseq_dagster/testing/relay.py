"""Relay pipeline: three steps that pass one word on, with the standard library alone.

For tests and benchmarks with many jobs, where the imports of a step would count more than anything else. `first` reads
the raw text file of the toy pipeline, `second` refuses the word `fail`, `third` ends the chain.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from morphseq_dagster.engine.contract.context import StepContext
from morphseq_dagster.engine.contract.step import ExternalInput, StepResult, StepSpec
from morphseq_dagster.engine.layout import Artifact, Layout
from morphseq_dagster.engine.pipeline import Pipeline
from morphseq_dagster.engine.storage.staging import Staged, stage_bytes
from morphseq_dagster.errors import PermanentError
from morphseq_dagster.morphseq.pipeline import MORPHSEQ
from morphseq_dagster.parameters import Parameters

RELAY = "morphseq_dagster.testing.relay:RELAY_PIPELINE"
"""Name of the pipeline as runner and settings want it."""


class RelayRecipe(Parameters):
    """Parameters of each step."""

    slow_s: float = 0.0
    """Seconds that the step takes, for tests that interrupt."""
    hold: str = ""
    """File that the step waits for, for tests that say when it may end; empty for none."""


def word_file(layout: Layout, experiment: str) -> Path:
    """Raw input: a text of one word per line."""
    return layout.data_root / "words" / f"{experiment}.txt"


def run_step(context: StepContext) -> StepResult:
    """Write the words that the step reads, with its own name below them."""
    layout, request, recipe = context.layout, context.request, context.recipe(RelayRecipe)
    if recipe.slow_s:
        sys.stdout.write("at work\n")  # whoever counts what a job costs need not count its start
        sys.stdout.flush()
    time.sleep(recipe.slow_s)
    while recipe.hold and not Path(recipe.hold).exists():
        time.sleep(0.05)
    text = layout.absolute(request.inputs[0].path).read_text()
    if request.step == "second" and "fail" in text.split():
        raise PermanentError(expected="a word", found="fail", where=request.experiment, remedy="write another word")
    primary = layout.absolute(request.output)
    units, sha256 = stage_bytes(primary, data=f"{text}{request.step}\n".encode())
    return StepResult(Staged(primary, units, sha256, sha256))


_BODY = "morphseq_dagster.testing.relay:run_step"
RELAY_PIPELINE = Pipeline(
    name="relay",
    steps=(
        StepSpec(
            "first",
            1,
            _BODY,
            (),
            group="relay",
            externals=(ExternalInput("words", word_file, required=True),),
            recipe=RelayRecipe,
        ),
        StepSpec("second", 1, _BODY, ("first",), group="relay", recipe=RelayRecipe),
        StepSpec("third", 1, _BODY, ("second",), group="relay", recipe=RelayRecipe),
    ),
    artifacts=tuple(
        Artifact(name, "document", f"relay/{name}_{{exp}}.txt", "A word with names.", contract="pydantic:BaseModel")
        for name in ("first", "second", "third")
    ),
    keys=MORPHSEQ.keys,
    sources=MORPHSEQ.sources,
)
