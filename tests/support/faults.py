"""Faults: comparisons of the package that can be taken away, one at a time, to see whether tests notice."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from morphseq_dagster.engine import locked_step as session
from morphseq_dagster.engine.contract import step as contract
from morphseq_dagster.engine.contract import wells
from morphseq_dagster.engine.contract.step import make_key
from morphseq_dagster.engine.planner import rules as planner
from morphseq_dagster.engine.storage import records
from morphseq_dagster.engine.storage.checkpoints import load_checkpoint
from morphseq_dagster.engine.storage.records import OutputVerdict


def _always(value: Any) -> Callable[..., Any]:  # noqa: ANN401 - what the function gives otherwise
    def answer(*arguments: object, **options: object) -> Any:  # noqa: ANN401 - as above
        del arguments, options
        return value

    return answer


def _find_key(folder: Path) -> str | None:
    path = next(iter(folder.glob("*.json")), None)
    return None if path is None else str(json.loads(path.read_bytes())["key"])


FAULTS: Final[Mapping[str, tuple[tuple[ModuleType, str, Any], ...]]] = {
    "pictures of a set are not compared": ((records, "_compare_pictures", _always(OutputVerdict.AS_RECORDED)),),
    "runs do not look at what was published": ((session, "compare_output", _always(OutputVerdict.AS_RECORDED)),),
    "wells are taken from edited pictures": ((wells, "compare_output", _always(OutputVerdict.AS_RECORDED)),),
    "the plan does not look at what was published": ((planner, "_of_output", _always([])),),
    "versions are in no key": (
        (contract, "make_key", lambda **parts: make_key(**{**parts, "version": 0})),
        (planner, "make_key", lambda **parts: make_key(**{**parts, "version": 0})),
    ),
    "pruned bytes are not missed": ((planner, "_rebuild_pruned", _always(None)),),
    "publications are not finished": ((session, "roll_forward", _always(None)),),
    "any key answers a checkpoint": (
        (wells, "load_checkpoint", lambda folder, key: load_checkpoint(folder, key=_find_key(folder) or key)),
    ),
}
"""Comparisons that are taken away, one at a time; the machine is worth something if it notices."""
