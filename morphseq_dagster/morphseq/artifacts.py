"""Artifacts of MorphSeq: path, contract, status column and description of each, in one entry.

The order is that of the columns of `morphseq status`. Steps make them (`pipeline.py`); their contracts are modules of
`contracts/`.
"""

from __future__ import annotations

from typing import Final

from morphseq_dagster.engine.layout import Artifact

_SAM2: Final = "sam2_pipeline_files"
_CONTRACTS: Final = "morphseq_dagster.morphseq.contracts"

ARTIFACTS: Final = (
    Artifact(
        "raw_manifest",
        "document",
        "metadata/raw_manifests/raw_manifest_{exp}.json",
        "Every raw file of the acquisition with size and hashes; its version says whether any pixel changed.",
        contract=f"{_CONTRACTS}.raw_manifest:RawManifest",
        column="RAW",
    ),
    Artifact(
        "plate_metadata",
        "table",
        "metadata/plate_tables/plate_metadata_{exp}.csv",
        "The plate workbook as a table of 96 wells: medium, genotype, perturbation, start age, temperature.",
        contract=f"{_CONTRACTS}.plate_metadata:CONTRACT",
    ),
    Artifact(
        "built_metadata",
        "table",
        "metadata/built_metadata_files/{exp}_metadata.csv",
        "One row per well and time: frame geometry and times joined with the plate.",
        contract=f"{_CONTRACTS}.built_metadata:CONTRACT",
        column="META",
    ),
    Artifact(
        "ff_images",
        "image_set",
        "built_image_data/stitched_FF_images/{exp}/ff_images_manifest_{exp}.json",
        "Focus-stacked, stitched 8-bit frames with pixel size and time of each.",
        contract=f"{_CONTRACTS}.ff_images:FfImages",
        column="FF",
        folders=("built_image_data/stitched_FF_images/{exp}",),
    ),
    Artifact(
        "qc_masks",
        "document",
        "segmentation/qc_masks/qc_masks_{exp}.json",
        "Masks of yolk, focus, bubbles and viability; says `unavailable` until weights are given.",
        contract=f"{_CONTRACTS}.qc_masks:QcMasks",
        column="QC",
    ),
    Artifact(
        "organized_frames",
        "image_set",
        f"{_SAM2}/raw_data_organized/{{exp}}/organized_frames_manifest_{{exp}}.json",
        "Frames named by image id, one folder per well; what detection and segmentation read.",
        contract=f"{_CONTRACTS}.organized_frames:OrganizedFrames",
        folders=(f"{_SAM2}/raw_data_organized/{{exp}}",),
    ),
    Artifact(
        "experiment_metadata",
        "document",
        f"{_SAM2}/raw_data_organized/experiment_metadata_{{exp}}.json",
        "Videos, images and plate values of the experiment as one document.",
        contract=f"{_CONTRACTS}.experiment_metadata:ExperimentMetadata",
        column="EXPMETA",
    ),
    Artifact(
        "gdino_raw",
        "document",
        f"{_SAM2}/detections/raw/gdino_raw_{{exp}}.json",
        "All detections of the chosen detector, before any filter.",
        contract=f"{_CONTRACTS}.detections:DetectionDocument",
    ),
    Artifact(
        "gdino_detections",
        "document",
        f"{_SAM2}/detections/gdino_detections_{{exp}}.json",
        "Detections after confidence threshold and non-maximum suppression.",
        contract=f"{_CONTRACTS}.detections:DetectionDocument",
        column="GDINO",
    ),
    Artifact(
        "sam2_tracks",
        "document",
        f"{_SAM2}/segmentation/raw/sam2_tracks_{{exp}}.json",
        "Masks of every embryo, tracked forward and backward from the seed frame.",
        contract=f"{_CONTRACTS}.segmentations:SegmentationDocument",
        column="SEG",
    ),
    Artifact(
        "sam2_segmentations",
        "document",
        f"{_SAM2}/segmentation/grounded_sam_segmentations_{{exp}}.json",
        "Masks with their quality flags, recomputed from scratch.",
        contract=f"{_CONTRACTS}.segmentations:SegmentationDocument",
        column="SAM2-SEG",
    ),
    Artifact(
        "exported_masks",
        "image_set",
        f"{_SAM2}/exported_masks/{{exp}}/mask_export_manifest_{{exp}}.json",
        "Label pictures, one per image, with their manifest.",
        contract=f"{_CONTRACTS}.exported_masks:ExportedMasks",
        column="PNG",
        folders=(f"{_SAM2}/exported_masks/{{exp}}",),
    ),
    Artifact(
        "sam2_metadata",
        "table",
        f"{_SAM2}/sam2_expr_files/sam2_metadata_{{exp}}.csv",
        "The table of 43 columns: one row per embryo and frame.",
        contract=f"{_CONTRACTS}.sam2_metadata:CONTRACT",
        column="CSV",
    ),
    Artifact(
        "embryo_metadata",
        "table",
        "metadata/build03/per_experiment/expr_embryo_metadata_{exp}.csv",
        "Embryo table: shape, viability, flags, predicted stage, perturbation.",
        contract=f"{_CONTRACTS}.embryo_metadata:CONTRACT",
        column="B03",
    ),
    Artifact(
        "snips",
        "image_set",
        "training_data/bf_embryo_snips/{exp}/snips_manifest_{exp}.json",
        "Aligned pictures of every embryo at one scale, with their masks.",
        contract=f"{_CONTRACTS}.snips:Snips",
        folders=(
            "training_data/bf_embryo_snips/{exp}",
            "training_data/bf_embryo_snips_uncropped/{exp}",
            "training_data/bf_embryo_masks/{exp}",
        ),
    ),
    Artifact(
        "qc_staged",
        "table",
        "metadata/build04/per_experiment/qc_staged_{exp}.csv",
        "Quality flags, death, surface area, stage, and which rows to use.",
        contract=f"{_CONTRACTS}.qc_staged:CONTRACT",
        column="B04",
    ),
    Artifact(
        "latents",
        "table",
        "analysis/latent_embeddings/legacy/{variant}/morph_latents_{exp}.csv",
        "Latent embedding of every snip.",
        contract=f"{_CONTRACTS}.latents:CONTRACT",
        column="LAT",
    ),
    Artifact(
        "embryo_latents_final",
        "table",
        "metadata/build06/per_experiment/embryo_latents_final_{exp}.csv",
        "The final table of the experiment: every staged row with its latents.",
        contract=f"{_CONTRACTS}.embryo_latents_final:CONTRACT",
        column="B06",
    ),
    Artifact(
        "cohort_final",
        "table",
        "metadata/combined_metadata_files/embryo_metadata_final_with_latents.csv",
        "The final tables of all experiments in one; made by `morphseq cohort`, never unasked.",
        contract=f"{_CONTRACTS}.cohort_final:CONTRACT",
    ),
)
