"""The MorphSeq workflow: artifacts, parameters and steps, as the one pipeline that the engine runs."""

from typing import Final

PIPELINE: Final = "morphseq_dagster.morphseq.pipeline:MORPHSEQ"
"""Name of the pipeline as the command line, the definitions and runners of steps want it."""
