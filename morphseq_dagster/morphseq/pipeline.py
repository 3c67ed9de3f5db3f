"""The registry: every step of the pipeline, in an order in which they can run; the asset graph is made from it.

Holds names, versions, inputs and descriptions. Raise a step's version whenever its results change, never otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from morphseq_dagster.engine.contract.step import ExternalInput, Registry, StepSpec
from morphseq_dagster.engine.layout import ARTIFACTS, Layout
from morphseq_dagster.latents.parameters import DEFAULT_MODEL
from morphseq_dagster.morphseq import inputs as registered
from morphseq_dagster.morphseq import recipes


def _latent_model(recipe: dict[str, Any]) -> str:
    return str(recipe["model"])


def _needs_weights(parameter: str, *, without: str) -> Callable[[Mapping[str, Any]], bool]:
    """Tell whether a slice chooses another backend than the one that has no weights."""
    return lambda recipe: recipe.get(parameter, without) != without


def _find_nothing(layout: Layout, experiment: str) -> None:
    """Weights lie where the machine's settings say."""
    del layout, experiment


def _weights(name: str, *, parameter: str, without: str) -> ExternalInput:
    wanted = _needs_weights(parameter, without=without)
    return ExternalInput(f"{name}_weights", _find_nothing, wanted=wanted, weights=name)


_WORKBOOK = ExternalInput("plate_workbook", registered.find_plate_workbook, required=True)
_STEPS: Final = (
    StepSpec(
        "raw_manifest",
        1,
        "morphseq_dagster.morphseq.steps.raw_manifest:run",
        (),
        "Every raw file of the acquisition with size and hashes; its version says whether any pixel changed.",
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
        "morphseq_dagster.morphseq.steps.plate_metadata:run",
        (),
        "The plate workbook as a table of 96 wells: medium, genotype, perturbation, start age, temperature.",
        group="acquisition",
        stage="build01",
        externals=(_WORKBOOK,),
        kinds=frozenset({"csv", "excel"}),
    ),
    StepSpec(
        "ff_images",
        2,
        "morphseq_dagster.morphseq.steps.ff_images:run",
        ("raw_manifest",),
        "Focus-stacked, stitched 8-bit frames with pixel size and time of each.",
        group="acquisition",
        stage="build01",
        recipe=recipes.FfImagesRecipe,
        kinds=frozenset({"opencv", "jpeg"}),
    ),
    StepSpec(
        "built_metadata",
        1,
        "morphseq_dagster.morphseq.steps.built_metadata:run",
        ("ff_images", "plate_metadata"),
        "One row per well and time: frame geometry and times joined with the plate.",
        group="acquisition",
        stage="build01",
        recipe=recipes.BuiltMetadataRecipe,
        kinds=frozenset({"csv"}),
    ),
    StepSpec(
        "organized_frames",
        1,
        "morphseq_dagster.morphseq.steps.organized_frames:run",
        ("ff_images",),
        "Frames named by image id, one folder per well; what detection and segmentation read.",
        group="segmentation",
        stage="sam2",
        recipe=recipes.OrganizedFramesRecipe,
        kinds=frozenset({"jpeg"}),
    ),
    StepSpec(
        "experiment_metadata",
        1,
        "morphseq_dagster.morphseq.steps.experiment_metadata:run",
        ("organized_frames", "built_metadata"),
        "Videos, images and plate values of the experiment as one document.",
        group="segmentation",
        stage="sam2",
        kinds=frozenset({"json"}),
    ),
    StepSpec(
        "gdino_raw",
        1,
        "morphseq_dagster.morphseq.steps.gdino_raw:run",
        ("organized_frames",),
        "All detections of the chosen detector, before any filter.",
        group="segmentation",
        stage="sam2",
        recipe=recipes.GdinoRawRecipe,
        externals=(_weights("gdino", parameter="backend", without="classical"),),
        kinds=frozenset({"opencv", "json"}),
        pool="gpu",
    ),
    StepSpec(
        "gdino_detections",
        1,
        "morphseq_dagster.morphseq.steps.gdino_detections:run",
        ("gdino_raw",),
        "Detections after confidence threshold and non-maximum suppression.",
        group="segmentation",
        stage="sam2",
        recipe=recipes.GdinoDetectionsRecipe,
        kinds=frozenset({"json"}),
    ),
    StepSpec(
        "sam2_tracks",
        2,
        "morphseq_dagster.morphseq.steps.sam2_tracks:run",
        ("organized_frames", "gdino_detections"),
        "Masks of every embryo, tracked forward and backward from the seed frame.",
        group="segmentation",
        stage="sam2",
        recipe=recipes.Sam2TracksRecipe,
        externals=(_weights("sam2", parameter="backend", without="classical"),),
        kinds=frozenset({"opencv", "json"}),
        pool="gpu",
    ),
    StepSpec(
        "sam2_segmentations",
        1,
        "morphseq_dagster.morphseq.steps.sam2_segmentations:run",
        ("sam2_tracks", "organized_frames"),
        "Masks with their quality flags, recomputed from scratch.",
        group="segmentation",
        stage="sam2",
        recipe=recipes.Sam2SegmentationsRecipe,
        kinds=frozenset({"json"}),
    ),
    StepSpec(
        "exported_masks",
        2,
        "morphseq_dagster.morphseq.steps.exported_masks:run",
        ("sam2_segmentations",),
        "Label pictures, one per image, with their manifest.",
        group="segmentation",
        stage="sam2",
        recipe=recipes.ExportedMasksRecipe,
        kinds=frozenset({"png"}),
    ),
    StepSpec(
        "sam2_metadata",
        1,
        "morphseq_dagster.morphseq.steps.sam2_metadata:run",
        ("sam2_segmentations", "exported_masks", "experiment_metadata"),
        "The table of 43 columns: one row per embryo and frame.",
        group="segmentation",
        stage="sam2",
        kinds=frozenset({"csv"}),
    ),
    StepSpec(
        "qc_masks",
        1,
        "morphseq_dagster.morphseq.steps.qc_masks:run",
        ("ff_images",),
        "Masks of yolk, focus, bubbles and viability; says `unavailable` until weights are given.",
        group="embryos",
        stage="build02",
        recipe=recipes.QcMasksRecipe,
        kinds=frozenset({"json"}),
    ),
    StepSpec(
        "embryo_metadata",
        2,
        "morphseq_dagster.morphseq.steps.embryo_metadata:run",
        ("sam2_metadata", "sam2_segmentations", "exported_masks", "organized_frames", "built_metadata", "qc_masks"),
        "Embryo table: shape, viability, flags, predicted stage, perturbation.",
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
        "morphseq_dagster.morphseq.steps.snips:run",
        ("exported_masks", "organized_frames", "qc_masks"),
        "Aligned pictures of every embryo at one scale, with their masks.",
        group="embryos",
        stage="build03",
        recipe=recipes.SnipsRecipe,
        kinds=frozenset({"opencv", "jpeg"}),
    ),
    StepSpec(
        "qc_staged",
        1,
        "morphseq_dagster.morphseq.steps.qc_staged:run",
        ("embryo_metadata", "snips"),
        "Quality flags, death, surface area, stage, and which rows to use.",
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
        "morphseq_dagster.morphseq.steps.latents:run",
        ("snips",),
        "Latent embedding of every snip.",
        group="latents",
        stage="latents",
        recipe=recipes.LatentsRecipe,
        externals=(_weights("latents", parameter="model", without=DEFAULT_MODEL),),
        kinds=frozenset({"csv"}),
        pool="gpu",
        variant=_latent_model,
    ),
    StepSpec(
        "embryo_latents_final",
        1,
        "morphseq_dagster.morphseq.steps.embryo_latents_final:run",
        ("qc_staged", "latents"),
        "The final table of the experiment: every staged row with its latents.",
        group="latents",
        stage="build06",
        recipe=recipes.FinalRecipe,
        kinds=frozenset({"csv"}),
    ),
)

REGISTRY: Final = Registry(_STEPS, tuple(ARTIFACTS.values()))
