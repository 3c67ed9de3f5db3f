"""The pipeline holds together: every step has its body, its artifact and its slice of the recipe."""

from __future__ import annotations

import inspect

import pytest

from morphseq_dagster.morphseq import recipes as slices
from morphseq_dagster.morphseq.pipeline import MORPHSEQ
from morphseq_dagster.parameters import Parameters

# The asset names of the issue, in the order of the pipeline.
NAMES = (
    "raw_manifest", "plate_metadata", "ff_images", "built_metadata", "organized_frames", "experiment_metadata",
    "gdino_raw", "gdino_detections", "sam2_tracks", "sam2_segmentations", "exported_masks", "sam2_metadata",
    "qc_masks", "embryo_metadata", "snips", "qc_staged", "latents", "embryo_latents_final",
)  # fmt: skip


def test_steps_are_the_assets_of_the_specification() -> None:
    assert tuple(spec.name for spec in MORPHSEQ.steps) == NAMES


@pytest.mark.parametrize("spec", [*MORPHSEQ.steps, MORPHSEQ.cohort], ids=lambda spec: spec.name)
def test_body_of_every_step_can_be_imported(spec) -> None:  # noqa: ANN001 - the type is the pipeline's
    assert callable(spec.load())


def test_every_artifact_of_the_layout_is_made_by_a_step() -> None:
    assert {artifact.name for artifact in MORPHSEQ.artifacts} == {*NAMES, "cohort_final"}


def test_every_slice_of_the_recipe_belongs_to_exactly_one_step() -> None:
    declared = {
        cls
        for name, cls in inspect.getmembers(slices, inspect.isclass)
        if issubclass(cls, Parameters) and name.endswith("Recipe") and cls.__module__ == slices.__name__
    }
    used = [spec.recipe for spec in MORPHSEQ.steps if spec.recipe is not Parameters]
    assert set(used) == declared
    assert len(used) == len(set(used))


def test_plate_and_workbook_reach_neither_detection_nor_segmentation_nor_snips_nor_latents() -> None:
    touched = MORPHSEQ.descendants({"plate_metadata"})
    assert touched == {
        "plate_metadata",
        "built_metadata",
        "experiment_metadata",
        "sam2_metadata",
        "embryo_metadata",
        "qc_staged",
        "embryo_latents_final",
    }
