"""The MorphSeq pipeline: every step in an order in which they can run; the asset graph is made from it.

Raise a step's version whenever its results change, never otherwise. What an artifact is called and where it lies stands
in `artifacts.py`, parameters in `recipes.py`, bodies in `steps/`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final

from morphseq_dagster.backends import Backends, weights_input
from morphseq_dagster.detection.backends import DETECTORS
from morphseq_dagster.engine.contract.step import ExternalInput, StepSpec
from morphseq_dagster.engine.layout import Layout
from morphseq_dagster.engine.pipeline import KeyRule, Pipeline, Sources
from morphseq_dagster.identifiers import refuse_experiment
from morphseq_dagster.latents.backends import EMBEDDERS
from morphseq_dagster.morphseq import inputs as registered
from morphseq_dagster.morphseq import recipes
from morphseq_dagster.morphseq.artifacts import ARTIFACTS
from morphseq_dagster.morphseq.carry_over import drop_unread
from morphseq_dagster.morphseq.discovery import inspect_folder, list_folders
from morphseq_dagster.morphseq.paths import area_reference, curation, perturbation_key, raw_root, stage_reference
from morphseq_dagster.segmentation.backends import SEGMENTERS

_GROUPS: Final = {
    "build01": "acquisition",
    "sam2": "segmentation",
    "build02": "embryos",
    "build03": "embryos",
    "build04": "embryos",
    "latents": "latents",
    "build06": "latents",
    "cohort": "cohort",
}
"""Group of assets by the stage of their steps."""


def _step(stage: str, name: str, *inputs: str, version: int = 1, kinds: str, **options: Any) -> StepSpec:  # noqa: ANN401
    """Describe the step of a stage whose body has its name; `options` are further fields of `StepSpec`."""
    body = f"morphseq_dagster.morphseq.steps.{name}:run"
    badges = frozenset(kinds.split())
    return StepSpec(name, version, body, inputs, group=_GROUPS[stage], stage=stage, kinds=badges, **options)


def _weights(backends: Backends[Any], *, parameter: str = "backend") -> tuple[ExternalInput, ...]:
    """Weights of a step's backends: inputs of the step under the recipes that choose a backend that reads them."""

    def is_wanted(name: str, recipe: Mapping[str, Any]) -> bool:
        return backends.weights_of(recipe.get(parameter, backends.default)) == name

    # The machine's settings say where weights lie.
    return tuple(
        ExternalInput(weights_input(name), lambda *_: None, wanted=partial(is_wanted, name), weights=name)
        for name in backends.weights()
    )


def _of_the_lab(name: str, path: Callable[[Layout], Path]) -> ExternalInput:
    """Describe a file of the lab that is the same for all experiments."""
    return ExternalInput(name, lambda layout, _: path(layout))


_RAW_FOLDER: Final = ExternalInput(
    "raw_folder", registered.find_raw_folder, required=True, digest=registered.digest_listing
)
_WORKBOOK: Final = ExternalInput("plate_workbook", registered.find_plate_workbook, required=True)
_STEPS: Final = (
    _step("build01", "raw_manifest", kinds="json", externals=(_RAW_FOLDER,)),
    _step("build01", "plate_metadata", kinds="csv excel", externals=(_WORKBOOK,)),
    _step("build01", "ff_images", "raw_manifest", version=2, kinds="opencv jpeg", recipe=recipes.FfImagesRecipe),
    _step("build01", "built_metadata", "ff_images", "plate_metadata", kinds="csv", recipe=recipes.BuiltMetadataRecipe),
    _step("sam2", "organized_frames", "ff_images", kinds="jpeg", recipe=recipes.OrganizedFramesRecipe),
    _step("sam2", "experiment_metadata", "organized_frames", "built_metadata", kinds="json"),
    _step(
        "sam2",
        "gdino_raw",
        "organized_frames",
        version=2,
        kinds="opencv json",
        pool="gpu",
        recipe=recipes.GdinoRawRecipe,
        externals=_weights(DETECTORS),
        carry_over=partial(drop_unread, model=recipes.GdinoRawRecipe, versions={1: 2}),
    ),
    _step("sam2", "gdino_detections", "gdino_raw", kinds="json", recipe=recipes.GdinoDetectionsRecipe),
    _step(
        "sam2",
        "sam2_tracks",
        "organized_frames",
        "gdino_detections",
        version=2,
        kinds="opencv json",
        pool="gpu",
        recipe=recipes.Sam2TracksRecipe,
        externals=_weights(SEGMENTERS),
        carry_over=partial(drop_unread, model=recipes.Sam2TracksRecipe),
    ),
    _step(
        "sam2",
        "sam2_segmentations",
        "sam2_tracks",
        "organized_frames",
        kinds="json",
        recipe=recipes.Sam2SegmentationsRecipe,
    ),
    _step("sam2", "exported_masks", "sam2_segmentations", version=2, kinds="png", recipe=recipes.ExportedMasksRecipe),
    _step("sam2", "sam2_metadata", "sam2_segmentations", "exported_masks", "experiment_metadata", kinds="csv"),
    _step("build02", "qc_masks", "ff_images", kinds="json", recipe=recipes.QcMasksRecipe),
    _step(
        "build03",
        "embryo_metadata",
        "sam2_metadata",
        "sam2_segmentations",
        "exported_masks",
        "organized_frames",
        "built_metadata",
        "qc_masks",
        version=2,
        kinds="csv",
        recipe=recipes.EmbryoMetadataRecipe,
        externals=(_of_the_lab("perturbation_key", perturbation_key), ExternalInput("curation", curation)),
    ),
    _step(
        "build03",
        "snips",
        "exported_masks",
        "organized_frames",
        "qc_masks",
        kinds="opencv jpeg",
        recipe=recipes.SnipsRecipe,
    ),
    _step(
        "build04",
        "qc_staged",
        "embryo_metadata",
        "snips",
        kinds="csv",
        recipe=recipes.QcStagedRecipe,
        externals=(_of_the_lab("area_reference", area_reference), _of_the_lab("stage_reference", stage_reference)),
    ),
    _step(
        "latents",
        "latents",
        "snips",
        kinds="csv",
        pool="gpu",
        recipe=recipes.LatentsRecipe,
        externals=_weights(EMBEDDERS, parameter="model"),
        variant=lambda recipe: str(recipe["model"]),
    ),
    _step("build06", "embryo_latents_final", "qc_staged", "latents", kinds="csv", recipe=recipes.FinalRecipe),
)

MORPHSEQ: Final = Pipeline(
    name="morphseq",
    steps=_STEPS,
    artifacts=ARTIFACTS,
    keys=KeyRule(
        refuse_experiment,
        noun="experiment",
        example="20240418 or 20250612_30hpf_ctrl",
        remedy="rename the raw folder; `morphseq experiments` lists all names with reasons",
    ),
    sources=Sources(list_folders, inspect_folder, raw_root),
    listing="raw_manifest",
    final="embryo_latents_final",
    cohort=_step("cohort", "cohort_final", kinds="csv"),
    goals={
        "build01": ("build01",),
        "sam2": ("sam2",),
        "build03": ("build03",),
        "build04": ("build04",),
        "build06": ("latents", "build06"),
    },
)
