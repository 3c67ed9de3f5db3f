"""Older trees for tests: the artifacts of a finished experiment, written again as the lab's older programs left them.

Each form that differs over versions is a choice: where files lie, how ids end, whether images are a list.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pandas as pd

from morphseq_dagster.engine.workspace import Workspace
from morphseq_dagster.morphseq.paths import MICROSCOPES, raw_folder

_LAB: Final = "/net/trapnell/vol1/home/lab/morphseq_playground"
"""Root that older documents carry in their absolute paths."""
_STAMP: Final = "2025-08-30T12:00:00.123456"


@dataclass(frozen=True)
class OlderForm:
    """How an older program wrote its files.

    Parameters
    ----------
    convention
        `R13`, `coded` or `older`.
    snip_letter
        Letter before a snip's frame: `t`, `s` or none.
    channel_in_ids
        Whether image ids carry the channel.
    images_as_list
        Whether the metadata document lists image ids.
    rle_format
        Name of the mask's form.
    numbered_frames
        Whether organised frames are named by number.
    flags
        Whether the segmentation document has its section of flags.
    """

    convention: str = "R13"
    snip_letter: str = "s"
    channel_in_ids: bool = True
    images_as_list: bool = False
    rle_format: str = "rle"
    numbered_frames: bool = False
    flags: bool = True


def copy_inputs(source: Workspace, experiment: str, *, data_root: Path) -> None:
    """Copy raw folder, workbook and references of an experiment into another data root."""
    for microscope in MICROSCOPES:
        folder = raw_folder(source.layout, microscope, experiment=experiment)
        if folder.is_dir():
            shutil.copytree(folder, data_root / folder.relative_to(source.data_root))
    metadata = source.data_root / "metadata"
    for path in (metadata / "well_metadata").glob(f"{experiment}*"):
        target = data_root / path.relative_to(source.data_root)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)


def write_older_tree(
    source: Workspace, experiment: str, *, root: Path, form: OlderForm, latent_model: str = ""
) -> dict[str, Path]:
    """Write the artifacts of a finished experiment as an older tree.

    Returns
    -------
    dict of str to Path
        The file or folder written for each artifact.
    """
    return _Writer(source, experiment, root=root, form=form).write(latent_model)


def merge_documents(paths: list[Path], target: Path) -> Path:
    """Merge documents of several experiments into one file of all experiments, as older programs kept it."""
    merged: dict[str, Any] = {}
    for path in paths:
        _merge(merged, json.loads(path.read_text()))
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(merged, indent=2))
    return target


class _Writer:
    def __init__(self, source: Workspace, experiment: str, *, root: Path, form: OlderForm) -> None:
        self.source = source
        self.exp = experiment
        self.root = root
        self.form = form

    def write(self, latent_model: str) -> dict[str, Path]:
        sam2 = "sam2_pipeline_files"
        coded = self.form.convention != "R13"
        where = f"{sam2}/raw_data_organized/" + (f"{self.exp}/" if coded else "")
        written = {
            "ff_images": self._pictures("ff_images", f"built_image_data/stitched_FF_images/{self.exp}"),
            "built_metadata": self._frame_table(),
            "organized_frames": self._organized(f"{sam2}/raw_data_organized/{self.exp}/images"),
            "experiment_metadata": self._json(f"{where}experiment_metadata_{self.exp}.json", self._metadata()),
            "gdino_detections": self._json(f"{sam2}/detections/gdino_detections_{self.exp}.json", self._detections()),
            "sam2_segmentations": self._json(
                f"{sam2}/segmentation/grounded_sam_segmentations_{self.exp}.json", self._segmentations()
            ),
            "exported_masks": self._masks(f"{sam2}/exported_masks/{self.exp}/masks"),
            "sam2_metadata": self._table("sam2_metadata", f"{sam2}/sam2_expr_files/sam2_metadata_{self.exp}.csv"),
            "embryo_metadata": self._table("embryo_metadata", self._place("build03", "expr_embryo_metadata")),
        }
        if latent_model:
            path = f"analysis/latent_embeddings/legacy/{latent_model}/morph_latents_{self.exp}.csv"
            written["latents"] = self._table("latents", path)
        return written

    def image(self, image_id: str) -> str:
        return image_id if self.form.channel_in_ids else image_id.replace("_ch00", "")

    def snip(self, snip_id: str) -> str:
        stem, _, number = snip_id.rpartition("_t")
        return f"{stem}_{self.form.snip_letter}{number}"

    def _place(self, stage: str, name: str) -> str:
        if self.form.convention == "older":
            return f"metadata/embryo_metadata_files/{self.exp}_embryo_metadata.csv"
        folder = f"metadata/{stage}/per_experiment" if self.form.convention == "R13" else f"metadata/{stage}_output"
        return f"{folder}/{name}_{self.exp}.csv"

    def _primary(self, step: str) -> Path:
        return self.source.output(step, experiment=self.exp)

    def _load(self, step: str) -> dict[str, Any]:
        value: dict[str, Any] = json.loads(self._primary(step).read_text())
        return value

    def _json(self, relative: str, value: dict[str, Any]) -> Path:
        path = self.root / relative
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(value, indent=2))
        return path

    def _pictures(self, step: str, relative: str) -> Path:
        folder = self.root / relative
        folder.mkdir(parents=True, exist_ok=True)
        for name in self._load(step)["files"]:
            shutil.copyfile(self.source.data_root / name, folder / Path(name).name)
        (folder / ".ff_complete").touch()
        return folder

    def _organized(self, relative: str) -> Path:
        folder = self.root / relative
        for image_id, entry in self._load("organized_frames")["images"].items():
            video = f"{self.exp}_{entry['well']}"
            name = f"{entry['time_int']:04d}" if self.form.numbered_frames else self.image(image_id)
            target = folder / video / f"{name}.jpg"
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(self.source.data_root / entry["path"], target)
        movies = folder.parent / "vids"
        movies.mkdir(parents=True, exist_ok=True)
        (movies / f"{self.exp}_A01.mp4").write_bytes(b"a movie of the older program")
        return folder

    def _masks(self, relative: str) -> Path:
        folder = self.root / relative
        folder.mkdir(parents=True, exist_ok=True)
        exports = {}
        for image_id, entry in self._load("exported_masks")["exports"].items():
            name = f"{self.image(image_id)}_masks_emnum_{entry['embryo_count']}.png"
            shutil.copyfile(self.source.data_root / entry["output_path"], folder / name)
            exports[self.image(image_id)] = {
                "image_id": self.image(image_id),
                "output_path": f"{_LAB}/{relative}/{name}",
                "embryo_count": entry["embryo_count"],
                "export_timestamp": _STAMP,
            }
        manifest = {"entity_tracking": {}, "exports": exports, "last_updated": _STAMP, "total_exported": len(exports)}
        (folder.parent / f"mask_export_manifest_{self.exp}.json").write_text(json.dumps(manifest))
        return folder

    def _frame_table(self) -> Path:
        table = pd.read_csv(self._primary("built_metadata"), dtype=str, keep_default_na=False)
        ours = ["time_string", "um_per_px", "temperature_source", "start_age_label", "microscope"]
        path = self.root / f"metadata/built_metadata_files/{self.exp}_metadata.csv"
        path.parent.mkdir(parents=True, exist_ok=True)
        table.drop(columns=ours).to_csv(path)
        return path

    def _table(self, step: str, relative: str) -> Path:
        table = pd.read_csv(self._primary(step), dtype=str, keep_default_na=False)
        for name, translate in (("snip_id", self.snip), ("image_id", self.image), ("exported_mask_path", self.image)):
            if name in table:
                table[name] = table[name].map(translate)
        path = self.root / relative
        path.parent.mkdir(parents=True, exist_ok=True)
        table.to_csv(path, index=False)
        return path

    def _metadata(self) -> dict[str, Any]:
        value = self._load("experiment_metadata")
        videos = value["experiments"][self.exp]["videos"]
        for video_id, video in videos.items():
            images = {self.image(k): v for k, v in video["image_ids"].items()}
            for image_id, image in images.items():
                image["processed_image_path"] = f"{_LAB}/images/{video_id}/{image_id}.jpg"
            video["image_ids"] = list(images) if self.form.images_as_list else images
            video["mp4_path"] = f"{_LAB}/sam2_pipeline_files/raw_data_organized/{self.exp}/vids/{video_id}.mp4"
            video["processed_jpg_images_dir"] = f"{_LAB}/sam2_pipeline_files/images/{video_id}"
            video["image_size"] = None
        value["file_info"] = {"creation_time": _STAMP, "script_version": "Module_0_Simplified"}
        value["entity_tracking" if self.form.images_as_list else "entity_tracker"] = value.pop("entity_tracker")
        return value

    def _detections(self) -> dict[str, Any]:
        value = self._load("gdino_detections")
        images = {}
        for image_id, image in value["images"].items():
            for annotation in image["annotations"]:
                annotation["timestamp"] = _STAMP
                annotation["model_metadata"] |= {
                    "model_weights_path": "checkpoint_best_regular.pth",
                    "loading_timestamp": _STAMP,
                    "model_architecture": "GroundedDINO",
                }
                del annotation["model_metadata"]["weights_sha256"]
            images[self.image(image_id)] = {"annotations": image["annotations"]}
        quality = value["high_quality_annotations"][self.exp]
        quality["timestamp"] = _STAMP
        quality["filtered"] = {self.image(k): v for k, v in quality["filtered"].items()}
        return {
            "file_info": {"creation_time": _STAMP, "last_updated": _STAMP},
            "images": images,
            "high_quality_annotations": {self.exp: quality},
            "entity_tracker": {"pipeline_step": "module_2_detection", "entities": {"images": sorted(images)}},
        }

    def _segmentations(self) -> dict[str, Any]:
        value = self._load("sam2_segmentations")
        for video in value["experiments"][self.exp]["videos"].values():
            video["processing_timestamp"] = _STAMP
            if video["seed_frame_info"] is not None:
                video["seed_frame_info"]["seed_frame"] = self.image(video["seed_frame_info"]["seed_frame"])
                video["seed_frame_info"]["bbox_units"] = "pixels"
            images = {}
            for image_id, image in video["image_ids"].items():
                image["image_id"] = self.image(image_id)
                for embryo in image["embryos"].values():
                    embryo["snip_id"] = self.snip(embryo["snip_id"])
                    embryo["mask_confidence"] = 0.85
                    del embryo["mask_target"], embryo["bbox"], embryo["segmentation"]["data"]
                    embryo["segmentation"]["format"] = self.form.rle_format
                images[self.image(image_id)] = image
            video["image_ids"] = images
        value |= {
            "creation_time": _STAMP,
            "gsam_id": "gsam_1234",
            "device": "cuda",
            "seed_annotations_path": f"{_LAB}/sam2_pipeline_files/detections/gdino_detections_{self.exp}.json",
        }
        if self.form.flags:
            flags = value["flags"]
            flags["by_snip"] = {self.snip(k): v for k, v in flags["by_snip"].items()}
            flags["by_image"] = {self.image(k): v for k, v in flags["by_image"].items()}
        else:
            del value["flags"]
        return value


def _merge(target: dict[str, Any], value: dict[str, Any]) -> None:
    for key, inner in value.items():
        if isinstance(inner, dict) and isinstance(target.get(key), dict):
            _merge(target[key], inner)
        else:
            target[key] = inner
