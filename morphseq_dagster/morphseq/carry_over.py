"""Records of earlier versions read as the present one would have written them, so that what stands is not made again.

`StepSpec.carry_over` of `pipeline.py` names these functions; the planner and the locked step apply them. Which results
are carried over, and which are not, stands in `docs/migration.md`.
"""

from __future__ import annotations

from collections.abc import Mapping

from morphseq_dagster.backends import BackendSlice
from morphseq_dagster.engine.contract.step import make_key
from morphseq_dagster.engine.storage.hashing import canonical_json, hash_json
from morphseq_dagster.engine.storage.records import Record


def drop_unread(
    record: Record, *, model: type[BackendSlice], versions: Mapping[int, int] | None = None
) -> Record | None:
    """Leave out of a record the parameters that its backend never read; None where there are none.

    Parameters
    ----------
    record
        A record of the step. One whose key is not that of its own parts is left alone.
    model
        Slice of the step as it is now.
    versions
        Earlier versions whose results stand, each with the version that they now count as.
    """
    entry = model.backends.entries.get(str(record.recipe.get("backend")))
    if entry is None or record.request_key != _key(record):
        return None
    stood = {**record.recipe, **record.recipe.get(entry.name, {})}
    recipe = {name: stood[name] for name in model.model_fields if name in stood}
    if read := {name: stood[name] for name in entry.parameters.model_fields if name in stood}:
        recipe[entry.name] = read
    version = (versions or {}).get(record.step_version, record.step_version)
    if (recipe, version) == (record.recipe, record.step_version):
        return None
    changed = record.model_copy(update={"recipe": recipe, "recipe_hash": hash_json(recipe), "step_version": version})
    return changed.model_copy(update={"request_key": _key(changed)})


def _key(record: Record) -> str:
    """Key of the request that a record answers, made of its parts."""
    return make_key(
        experiment=record.experiment,
        step=record.step,
        version=record.step_version,
        recipe=canonical_json(record.recipe),
        inputs={entry.name: entry.sha256 for entry in record.inputs},
        output=record.output.path,
    )
