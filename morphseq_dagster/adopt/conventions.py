"""Conventions: where the lab's programs have put each artifact, over three layouts and four files of all experiments.

Paths are relative to the root of a tree; our own are in `morphseq/artifacts.py` (spec, orchestration 1.12).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from morphseq_dagster.identifiers import refuse_experiment

_SAM2: Final = "sam2_pipeline_files"

PER_EXPERIMENT: Final[dict[str, tuple[tuple[str, str], ...]]] = {
    "ff_images": (("R13", "built_image_data/stitched_FF_images/{exp}"),),
    "built_metadata": (("R13", "metadata/built_metadata_files/{exp}_metadata.csv"),),
    "organized_frames": (("R13", _SAM2 + "/raw_data_organized/{exp}/images"),),
    "experiment_metadata": (
        ("R13", _SAM2 + "/raw_data_organized/experiment_metadata_{exp}.json"),
        ("coded", _SAM2 + "/raw_data_organized/{exp}/experiment_metadata_{exp}.json"),
    ),
    "gdino_raw": (("R13", _SAM2 + "/detections/gdino_detections_{exp}.json"),),
    "gdino_detections": (("R13", _SAM2 + "/detections/gdino_detections_{exp}.json"),),
    "sam2_tracks": (("R13", _SAM2 + "/segmentation/grounded_sam_segmentations_{exp}.json"),),
    "sam2_segmentations": (("R13", _SAM2 + "/segmentation/grounded_sam_segmentations_{exp}.json"),),
    "exported_masks": (("R13", _SAM2 + "/exported_masks/{exp}/masks"),),
    "sam2_metadata": (("R13", _SAM2 + "/sam2_expr_files/sam2_metadata_{exp}.csv"),),
    "embryo_metadata": (
        ("R13", "metadata/build03/per_experiment/expr_embryo_metadata_{exp}.csv"),
        ("coded", "metadata/build03_output/expr_embryo_metadata_{exp}.csv"),
        ("older", "metadata/embryo_metadata_files/{exp}_embryo_metadata.csv"),
    ),
    "qc_staged": (
        ("R13", "metadata/build04/per_experiment/qc_staged_{exp}.csv"),
        ("coded", "metadata/build04_output/qc_staged_{exp}.csv"),
    ),
    "latents": (("R13", "analysis/latent_embeddings/legacy/{variant}/morph_latents_{exp}.csv"),),
    "embryo_latents_final": (
        ("R13", "metadata/build06/per_experiment/embryo_latents_final_{exp}.csv"),
        ("coded", "metadata/build06_output/df03_final_output_with_latents_{exp}.csv"),
        ("older", "metadata/build06_ouput/df03_final_output_with_latents_{exp}.csv"),
    ),
}
"""Places by artifact, best first: R13's, the one that the lab's code used, an older one."""

MONOLITHS: Final[dict[str, tuple[str, str]]] = {
    "gdino_raw": ("detections", _SAM2 + "/detections/gdino_detections.json"),
    "gdino_detections": ("detections", _SAM2 + "/detections/gdino_detections.json"),
    "sam2_tracks": ("segmentations", _SAM2 + "/segmentation/grounded_sam_segmentations.json"),
    "sam2_segmentations": ("segmentations", _SAM2 + "/segmentation/grounded_sam_segmentations.json"),
    "experiment_metadata": ("experiment_metadata", _SAM2 + "/raw_data_organized/experiment_metadata.json"),
    "embryo_metadata": ("table", "metadata/combined_metadata_files/embryo_metadata_df01.csv"),
}
"""Kind and place of the files that hold all experiments."""


@dataclass(frozen=True)
class Source:
    """Where an artifact may come from.

    Parameters
    ----------
    path
        File or folder; for a piece of a file of all experiments, that file.
    convention
        `own` (our place and form), `R13`, `coded`, `older` or `monolith`.
    piece
        Folder of the pieces, for a monolith.
    """

    path: Path
    convention: str
    piece: Path | None = None


def find_sources(root: Path, *, step: str, experiment: str, variant: str = "") -> tuple[Source, ...]:
    """Existing places of an artifact in a tree, best first; files of all experiments are not among them."""
    found = []
    for convention, template in PER_EXPERIMENT.get(step, ()):
        path = root / template.format(exp=experiment, variant=variant)
        if path.exists():
            found.append(Source(path, convention))
    return tuple(found)


def list_named(root: Path) -> Iterator[str]:
    """Experiments that a tree's paths name; a name may come several times."""
    for places in PER_EXPERIMENT.values():
        for _, template in places:
            pattern = re.escape(template).replace(re.escape("{exp}"), "{exp}")
            first, *rest = pattern.replace(re.escape("{variant}"), "[^/]+").split("{exp}")
            text = first + "([^/]+?)" + "".join(r"\1" + part if n else part for n, part in enumerate(rest))
            for path in root.glob(template.replace("{exp}", "*").replace("{variant}", "*")):
                match = re.fullmatch(text, path.relative_to(root).as_posix())
                if match is not None and refuse_experiment(match[1]) is None:
                    yield match[1]
