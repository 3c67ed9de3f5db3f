"""The MorphSeq pipeline: every step in an order in which they can run; the asset graph is made from it.

Raise a step's version whenever its results change, never otherwise. What an artifact is called and where it lies stands
in `artifacts.py`, parameters in `recipes.py`, bodies in `steps/`.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
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
from morphseq_dagster.morphseq.paths import raw_root
from morphseq_dagster.segmentation.backends import SEGMENTERS


def _latent_model(recipe: dict[str, Any]) -> str:
    return str(recipe["model"])


def _find_nothing(layout: Layout, experiment: str) -> None:
    """Weights lie where the machine's settings say."""
    del layout, experiment


def _weights(backends: Backends[Any], *, parameter: str = "backend") -> tuple[ExternalInput, ...]:
    """Weights of a step's backends: inputs of the step under the recipes that choose a backend that reads them."""

    def is_wanted(name: str, recipe: Mapping[str, Any]) -> bool:
        return backends.weights_of(recipe.get(parameter, backends.default)) == name

    return tuple(
        ExternalInput(weights_input(name), _find_nothing, wanted=partial(is_wanted, name), weights=name)
        for name in backends.weights()
    )


_BODIES: Final = "morphseq_dagster.morphseq.steps"
_WORKBOOK = ExternalInput("plate_workbook", registered.find_plate_workbook, required=True)
_STEPS: Final = (
    StepSpec(
        "raw_manifest",
        1,
        f"{_BODIES}.raw_manifest:run",
        (),
        group="acquisition",
        stage="build01",
        externals=(
            ExternalInput("raw_folder", registered.find_raw_folder, required=True, digest=registered.digest_listing),
        ),
        kinds=frozenset({"json"}),
    ),
    StepSpec(
        "plate_metadata",
        1,
        f"{_BODIES}.plate_metadata:run",
        (),
        group="acquisition",
        stage="build01",
        externals=(_WORKBOOK,),
        kinds=frozenset({"csv", "excel"}),
    ),
    StepSpec(
        "ff_images",
        2,
        f"{_BODIES}.ff_images:run",
        ("raw_manifest",),
        group="acquisition",
        stage="build01",
        recipe=recipes.FfImagesRecipe,
        kinds=frozenset({"opencv", "jpeg"}),
    ),
    StepSpec(
        "built_metadata",
        1,
        f"{_BODIES}.built_metadata:run",
        ("ff_images", "plate_metadata"),
        group="acquisition",
        stage="build01",
        recipe=recipes.BuiltMetadataRecipe,
        kinds=frozenset({"csv"}),
    ),
    StepSpec(
        "organized_frames",
        1,
        f"{_BODIES}.organized_frames:run",
        ("ff_images",),
        group="segmentation",
        stage="sam2",
        recipe=recipes.OrganizedFramesRecipe,
        kinds=frozenset({"jpeg"}),
    ),
    StepSpec(
        "experiment_metadata",
        1,
        f"{_BODIES}.experiment_metadata:run",
        ("organized_frames", "built_metadata"),
        group="segmentation",
        stage="sam2",
        kinds=frozenset({"json"}),
    ),
    StepSpec(
        "gdino_raw",
        2,
        f"{_BODIES}.gdino_raw:run",
        ("organized_frames",),
        group="segmentation",
        stage="sam2",
        recipe=recipes.GdinoRawRecipe,
        externals=_weights(DETECTORS),
        carry_over=partial(drop_unread, model=recipes.GdinoRawRecipe, versions={1: 2}),
        kinds=frozenset({"opencv", "json"}),
        pool="gpu",
    ),
    StepSpec(
        "gdino_detections",
        1,
        f"{_BODIES}.gdino_detections:run",
        ("gdino_raw",),
        group="segmentation",
        stage="sam2",
        recipe=recipes.GdinoDetectionsRecipe,
        kinds=frozenset({"json"}),
    ),
    StepSpec(
        "sam2_tracks",
        2,
        f"{_BODIES}.sam2_tracks:run",
        ("organized_frames", "gdino_detections"),
        group="segmentation",
        stage="sam2",
        recipe=recipes.Sam2TracksRecipe,
        externals=_weights(SEGMENTERS),
        carry_over=partial(drop_unread, model=recipes.Sam2TracksRecipe),
        kinds=frozenset({"opencv", "json"}),
        pool="gpu",
    ),
    StepSpec(
        "sam2_segmentations",
        1,
        f"{_BODIES}.sam2_segmentations:run",
        ("sam2_tracks", "organized_frames"),
        group="segmentation",
        stage="sam2",
        recipe=recipes.Sam2SegmentationsRecipe,
        kinds=frozenset({"json"}),
    ),
    StepSpec(
        "exported_masks",
        2,
        f"{_BODIES}.exported_masks:run",
        ("sam2_segmentations",),
        group="segmentation",
        stage="sam2",
        recipe=recipes.ExportedMasksRecipe,
        kinds=frozenset({"png"}),
    ),
    StepSpec(
        "sam2_metadata",
        1,
        f"{_BODIES}.sam2_metadata:run",
        ("sam2_segmentations", "exported_masks", "experiment_metadata"),
        group="segmentation",
        stage="sam2",
        kinds=frozenset({"csv"}),
    ),
    StepSpec(
        "qc_masks",
        1,
        f"{_BODIES}.qc_masks:run",
        ("ff_images",),
        group="embryos",
        stage="build02",
        recipe=recipes.QcMasksRecipe,
        kinds=frozenset({"json"}),
    ),
    StepSpec(
        "embryo_metadata",
        2,
        f"{_BODIES}.embryo_metadata:run",
        ("sam2_metadata", "sam2_segmentations", "exported_masks", "organized_frames", "built_metadata", "qc_masks"),
        group="embryos",
        stage="build03",
        externals=(
            ExternalInput("perturbation_key", registered.find_perturbation_key),
            ExternalInput("curation", registered.find_curation),
        ),
        recipe=recipes.EmbryoMetadataRecipe,
        kinds=frozenset({"csv"}),
    ),
    StepSpec(
        "snips",
        1,
        f"{_BODIES}.snips:run",
        ("exported_masks", "organized_frames", "qc_masks"),
        group="embryos",
        stage="build03",
        recipe=recipes.SnipsRecipe,
        kinds=frozenset({"opencv", "jpeg"}),
    ),
    StepSpec(
        "qc_staged",
        1,
        f"{_BODIES}.qc_staged:run",
        ("embryo_metadata", "snips"),
        group="embryos",
        stage="build04",
        externals=(
            ExternalInput("area_reference", registered.find_area_reference),
            ExternalInput("stage_reference", registered.find_stage_reference),
        ),
        recipe=recipes.QcStagedRecipe,
        kinds=frozenset({"csv"}),
    ),
    StepSpec(
        "latents",
        1,
        f"{_BODIES}.latents:run",
        ("snips",),
        group="latents",
        stage="latents",
        recipe=recipes.LatentsRecipe,
        externals=_weights(EMBEDDERS, parameter="model"),
        kinds=frozenset({"csv"}),
        pool="gpu",
        variant=_latent_model,
    ),
    StepSpec(
        "embryo_latents_final",
        1,
        f"{_BODIES}.embryo_latents_final:run",
        ("qc_staged", "latents"),
        group="latents",
        stage="build06",
        recipe=recipes.FinalRecipe,
        kinds=frozenset({"csv"}),
    ),
)

_COHORT: Final = StepSpec(
    "cohort_final",
    1,
    f"{_BODIES}.cohort_final:run",
    (),
    group="cohort",
    stage="cohort",
    kinds=frozenset({"csv"}),
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
    cohort=_COHORT,
    goals={
        "build01": ("build01",),
        "sam2": ("sam2",),
        "build03": ("build03",),
        "build04": ("build04",),
        "build06": ("latents", "build06"),
    },
)
