"""Records of the version before (`records/`) answer today's requests where the backend read the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from morphseq_dagster.engine.contract.step import make_key
from morphseq_dagster.engine.planner.plan import plan_experiments
from morphseq_dagster.engine.storage.atomic_io import write_durably
from morphseq_dagster.engine.storage.hashing import canonical_json, hash_json
from morphseq_dagster.engine.storage.records import Record, encode, read_record
from morphseq_dagster.engine.workspace import Workspace
from morphseq_dagster.morphseq.pipeline import MORPHSEQ
from tests.support.experiments import FRAMES_EXPERIMENT, open_data_root, run_experiment

FOLDER = Path(__file__).parent / "records"
OLD_DETECTION = {"prompt": "individual embryo", "box_threshold": 0.35, "text_threshold": 0.25}


def read(name: str) -> Record:
    return Record.model_validate_json((FOLDER / f"{name}.json").read_bytes())


def key_of(record: Record, *, recipe: dict[str, Any], version: int) -> str:
    return make_key(
        experiment=record.experiment,
        step=record.step,
        version=version,
        recipe=canonical_json(recipe),
        inputs={entry.name: entry.sha256 for entry in record.inputs},
        output=record.output.path,
    )


def as_before(record: Record, **changes: object) -> Record:
    """Record as the version before would have written it under another recipe."""
    recipe = {**record.recipe, **changes}
    key = key_of(record, recipe=recipe, version=record.step_version)
    return record.model_copy(update={"recipe": recipe, "recipe_hash": hash_json(recipe), "request_key": key})


def key_now(record: Record, values: dict[str, Any]) -> str:
    """Key of today's request with the record's inputs under a recipe."""
    spec = MORPHSEQ.spec(record.step)
    recipe = spec.recipe.model_validate(values).model_dump(mode="json")
    return key_of(record, recipe=recipe, version=spec.version)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("gdino_raw_default", {}),
        ("gdino_raw_prompt", {}),
        ("gdino_raw_classical", {"classical": {"rim_mad": 9.0, "content_min": 0.12}}),
        ("sam2_tracks_default", {}),
    ],
)
def test_record_answers_the_request_of_what_its_backend_read(name: str, values: dict[str, Any]) -> None:
    record = read(name)
    spec = MORPHSEQ.spec(record.step)
    translated = spec.translate(record)
    assert translated.request_key == key_now(record, values)
    assert translated.recipe == spec.recipe.model_validate(values).model_dump(mode="json")
    assert (translated.recipe_hash, translated.step_version) == (hash_json(translated.recipe), spec.version)
    parts = {"recipe", "recipe_hash", "request_key", "step_version"}
    assert translated.model_dump(exclude=parts) == record.model_dump(exclude=parts)
    assert spec.carry_over is not None
    assert spec.carry_over(translated) is None


def test_records_differ_where_what_was_read_differs() -> None:
    spec = MORPHSEQ.spec("gdino_raw")
    record = read("gdino_raw_classical")
    assert spec.translate(record).request_key != key_now(record, {})
    other = as_before(read("gdino_raw_default"), max_failed_share=0.1)
    assert spec.translate(other).request_key == key_now(other, {"max_failed_share": 0.1}) != key_now(other, {})


def test_adopted_record_under_a_neural_backend_keeps_what_that_one_would_have_read() -> None:
    record = as_before(read("gdino_raw_prompt"), backend="groundingdino")
    asked = {"prompt": "zebrafish embryo", "box_threshold": 0.3, "text_threshold": 0.2}
    translated = MORPHSEQ.spec("gdino_raw").translate(record)
    assert translated.recipe == {"max_failed_share": 0.5, "backend": "groundingdino", "groundingdino": asked}
    assert translated.request_key == key_now(record, {"backend": "groundingdino", "groundingdino": asked})
    tracks = as_before(read("sam2_tracks_default"), backend="sam2")
    translated = MORPHSEQ.spec("sam2_tracks").translate(tracks)
    assert translated.recipe == {"max_failed_share": 0.5, "backend": "sam2"}
    assert translated.request_key == key_now(tracks, {"backend": "sam2"})


@pytest.mark.parametrize(
    "change",
    [{"request_key": "0" * 64}, {"request_key": ""}, {"experiment": "20240419"}, {"recipe": {"backend": "magic"}}],
)
def test_record_that_is_not_what_its_key_says_is_left_alone(change: dict[str, Any]) -> None:
    record = read("gdino_raw_default").model_copy(update=change)
    assert MORPHSEQ.spec("gdino_raw").translate(record) == record


def write_as_before(workspace: Workspace) -> Record:
    """Turn the record of detections into what the version before wrote."""
    primary = workspace.output("gdino_raw", experiment=FRAMES_EXPERIMENT)
    record = read_record(workspace.layout, primary=primary)
    assert record is not None
    old = as_before(record.model_copy(update={"step_version": 1}), **OLD_DETECTION)
    write_durably(workspace.layout.record(primary), encode(old))
    return old


def test_tree_of_the_version_before_needs_nothing_until_what_was_read_changes(frames_root: Path) -> None:
    workspace = open_data_root(frames_root)
    old = write_as_before(workspace)
    path = workspace.layout.recipes(FRAMES_EXPERIMENT)[1]
    path.parent.mkdir(exist_ok=True)

    def closure() -> tuple[str, ...]:
        (plan,) = plan_experiments(workspace, experiments=[FRAMES_EXPERIMENT])
        return plan.closure

    for text in ("", "[gdino_raw]\nprompt = 'zebrafish embryo'\n", "[gdino_raw.hf_groundingdino]\nprompt = 'egg'\n"):
        path.write_text(text)
        assert closure() == ()
        assert run_experiment(workspace, FRAMES_EXPERIMENT).computed == ()
    primary = workspace.output("gdino_raw", experiment=FRAMES_EXPERIMENT)
    assert read_record(workspace.layout, primary=primary) == old, "what stands is not written again"

    path.write_text("[gdino_raw.classical]\nrim_mad = 9.0\n")
    assert closure()[0] == "gdino_raw"
    assert run_experiment(workspace, FRAMES_EXPERIMENT).computed[0] == "gdino_raw"
    record = read_record(workspace.layout, primary=primary)
    assert record is not None
    assert (record.step_version, set(record.recipe)) == (2, {"max_failed_share", "backend", "classical"})
