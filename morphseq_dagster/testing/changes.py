from dataclasses import dataclass
from morphseq_dagster.steps.registry import REGISTRY
COHORT_STEP = "cohort_final"
ALL_STEPS = (*(spec.name for spec in REGISTRY.steps), COHORT_STEP)
@dataclass(frozen=True)
class Change:
    name: str
    what: str=""
    recomputes: tuple = ()
CHANGES=()
