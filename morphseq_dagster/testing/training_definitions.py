"""Definitions of the second workflow: a code location of its own, beside MorphSeq's in one Dagster instance.

Its data root is `MORPHSEQ_TRAINING_ROOT`; everything else is as this machine's settings say.
"""

from __future__ import annotations

import os
from pathlib import Path

from morphseq_dagster.build import build_definitions
from morphseq_dagster.settings.machine import load_settings
from morphseq_dagster.testing.training import PIPELINE

defs = build_definitions(load_settings(data_root=Path(os.environ["MORPHSEQ_TRAINING_ROOT"])), pipeline=PIPELINE)
