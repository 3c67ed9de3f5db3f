"""Step `snips`: aligned pictures of every embryo at one scale, well by well, with their masks.

Snips are cut in `morphometry/snips.py`. The embryo table is no input, so that an edit of the workbook cuts no snip
anew.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from morphseq_dagster.engine.contract.context import Account, StepContext
from morphseq_dagster.engine.contract.step import StepResult
from morphseq_dagster.engine.contract.wells import WellTask, map_wells
from morphseq_dagster.engine.storage.checkpoints import WellPayload
from morphseq_dagster.engine.tables.document import parse_document
from morphseq_dagster.identifiers import mint_embryo, mint_snip, parse_image
from morphseq_dagster.imaging.pictures import encode_jpeg, encode_png
from morphseq_dagster.morphometry.background import (
    BackgroundStatistics,
    Polarity,
    background_statistics,
    sample_frames,
)
from morphseq_dagster.morphometry.snips import NoSnip, extract_snip
from morphseq_dagster.morphseq.contracts.exported_masks import ExportedMasks
from morphseq_dagster.morphseq.contracts.organized_frames import OrganizedFrames
from morphseq_dagster.morphseq.contracts.qc_masks import QcMasks
from morphseq_dagster.morphseq.contracts.snips import RefusedSnip, SnipEntry, Snips
from morphseq_dagster.morphseq.recipes import SnipsRecipe
from morphseq_dagster.morphseq.steps.image_sets import FrameReader, link_entries, read_picture
from morphseq_dagster.morphseq.steps.previews import contact_sheet

_MASK_COMPRESSION = 6
# Frames are read with a bright background; the cutter turns them round itself.
_POLARITY: Polarity = "bright_background"


class _Inputs:
    """Inputs of the step, and the images with masks by well, in time order."""

    def __init__(self, context: StepContext) -> None:
        self.context = context
        self.recipe = self.context.recipe(SnipsRecipe)
        self.masks = self.context.document("exported_masks", ExportedMasks)
        self.frames = self.context.document("organized_frames", OrganizedFrames)
        self.context.document("qc_masks", QcMasks)
        folders = self.context.layout.folders("snips", experiment=self.context.experiment)
        self.snip_folder, self.uncropped_folder, self.mask_folder = folders
        self.wells: dict[str, list[str]] = {}
        for image_id in sorted(self.masks.exports):
            self.wells.setdefault(self.frames.images[image_id].well, []).append(image_id)

    def labels(self, image_id: str) -> NDArray[np.uint8]:
        """Label picture of an image."""
        return read_picture(self.context, manifest=self.masks, path=self.masks.exports[image_id].output_path)

    def picture(self, image_id: str) -> NDArray[np.uint8]:
        """Frame with a bright background."""
        return FrameReader(self.context, self.frames, self.frames.images[image_id]).read()

    def numbers(self, image_id: str) -> list[int]:
        """Embryo numbers that the manifest lists for an image, also those whose pixels another embryo hides."""
        entities = self.masks.entity_tracking.snips
        parts = parse_image(image_id)
        prefix = f"{self.context.experiment}_{parts.well}_e"
        suffix = f"_t{parts.frame:04d}"
        return [int(s[len(prefix) : -len(suffix)]) for s in entities if s.startswith(prefix) and s.endswith(suffix)]


def run(context: StepContext) -> StepResult:
    """Cut the snips of an experiment."""
    inputs = _Inputs(context)
    recipe = inputs.recipe
    background = _background(inputs)
    published = _published(context)

    def restore(task: WellTask) -> WellPayload | None:
        entries = published.get(task.well)
        if entries is None:
            return None
        paths = [context.layout.absolute(p) for e in entries["snips"].values() for p in _paths(e)]
        return WellPayload(entries, {_stored_name(path): path for path in paths})

    tasks = [
        WellTask(
            well,
            [
                background.mean if background else None,
                background.sd if background else None,
                [
                    [i, inputs.frames.files[inputs.frames.images[i].path].sha256, inputs.frames.images[i].um_per_px,
                     inputs.frames.polarity, inputs.masks.files[inputs.masks.exports[i].output_path].sha256]
                    for i in images
                ],
            ],
        )
        for well, images in inputs.wells.items()
    ]  # fmt: skip
    done = map_wells(
        context,
        tasks=tasks,
        compute=_cut_well,
        load=_Inputs,
        state=inputs,
        restore=restore,
        max_failed_share=recipe.max_failed_share,
    )
    snips = {k: SnipEntry.model_validate(v) for p in done.payloads.values() for k, v in p.data["snips"].items()}
    refused = {k: RefusedSnip.model_validate(v) for p in done.payloads.values() for k, v in p.data["refused"].items()}
    stored = {name: Path(str(p)) for payload in done.payloads.values() for name, p in payload.files.items()}
    targets = [context.layout.absolute(p) for entry in snips.values() for p in _paths(entry.model_dump())]
    files = {target: stored[_stored_name(target)] for target in targets}
    manifest = Snips(
        experiment_id=context.experiment,
        files=link_entries(context.layout, files),
        scale_um_per_px=recipe.snip.scale_um_per_px,
        recipe_hash=context.request.recipe_hash,
        background_mean=background.mean if background else None,
        background_sd=background.sd if background else None,
        snips=dict(sorted(snips.items())),
        refused=dict(sorted(refused.items())),
    )
    account = Account(
        wells=done.states,
        counts={"snips": len(snips), "refused": len(refused), "wells_computed": done.computed},
        preview=contact_sheet([files[context.layout.absolute(e.path)] for _, e in sorted(snips.items())]),
    )
    folders = (inputs.snip_folder, inputs.uncropped_folder, inputs.mask_folder)
    return context.stage_images(files, manifest=manifest, folders=folders, account=account)


def _cut_well(task: WellTask, inputs: _Inputs) -> WellPayload:
    """Cut the snips of one well."""
    mean, sd, _ = task.inputs
    background = None if mean is None else BackgroundStatistics(mean=mean, sd=sd)
    snips: dict[str, Any] = {}
    refused: dict[str, Any] = {}
    files: dict[str, bytes | Path] = {}
    layout, recipe = inputs.context.layout, inputs.recipe
    for image_id in inputs.wells[task.well]:
        picture, labels = inputs.picture(image_id), inputs.labels(image_id)
        entry = inputs.frames.images[image_id]
        for number in inputs.numbers(image_id):
            embryo_id = mint_embryo(inputs.context.experiment, well=task.well, number=number)
            snip_id = mint_snip(embryo_id, frame=entry.time_int)
            who = {"embryo_id": embryo_id, "image_id": image_id, "well": task.well}
            cut = (
                NoSnip("no background around the embryos", out_of_frame=None)
                if background is None
                else extract_snip(
                    picture,
                    mask=labels == number,
                    um_per_px=entry.um_per_px,
                    polarity=_POLARITY,
                    background=background,
                    snip_id=snip_id,
                    settings=recipe.snip,
                )
            )
            if isinstance(cut, NoSnip):
                refused[snip_id] = {**who, "reason": cut.reason, "out_of_frame": cut.out_of_frame}
                continue
            paths = {
                "path": inputs.snip_folder / f"{snip_id}.jpg",
                "uncropped_path": inputs.uncropped_folder / f"{snip_id}.jpg",
                "mask_path": inputs.mask_folder / f"emb_{snip_id}.png",
            }
            files[_stored_name(paths["path"])] = encode_jpeg(cut.blended, quality=recipe.jpeg_quality)
            files[_stored_name(paths["uncropped_path"])] = encode_jpeg(cut.uncropped, quality=recipe.jpeg_quality)
            files[_stored_name(paths["mask_path"])] = encode_png(cut.mask, compression=_MASK_COMPRESSION)
            snips[snip_id] = {
                **who,
                **{name: layout.relative(path) for name, path in paths.items()},
                "out_of_frame": cut.out_of_frame,
                "kept_share": round(cut.kept_share, 6),
                "angle_rad": round(cut.angle_rad, 6),
                "head_rule": cut.head_rule,
                "problem": cut.problem,
            }
    return WellPayload({"snips": snips, "refused": refused}, files)


def _background(inputs: _Inputs) -> BackgroundStatistics | None:
    """Grey level around the embryos of an even sample of frames.

    Rounded to whole grey levels, which is far below its scatter between experiments: so one more frame does not make
    every snip new.
    """
    chosen = sample_frames(list(inputs.masks.exports), count=inputs.recipe.background_frames)

    def pairs() -> Iterator[tuple[NDArray[np.uint8], NDArray[np.bool_]]]:
        for image_id in chosen:
            yield inputs.picture(image_id), inputs.labels(image_id) > 0

    if not chosen:
        return None
    found = background_statistics(pairs(), polarity=_POLARITY)
    return BackgroundStatistics(
        mean=float(round(found.mean)), sd=float(max(1, round(found.sd))), frames=found.frames, pixels=found.pixels
    )


def _paths(entry: dict[str, Any]) -> tuple[str, str, str]:
    return entry["path"], entry["uncropped_path"], entry["mask_path"]


def _stored_name(path: Path) -> str:
    """Name inside a checkpoint: snip and uncropped snip have the same file name in different folders."""
    return f"{path.parent.parent.name}/{path.name}"


def _published(context: StepContext) -> dict[str, dict[str, Any]]:
    """Snips of the published version by well."""
    data = context.published()
    if data is None:
        return {}
    manifest = parse_document(Snips, data, where=context.request.output)
    wells: dict[str, dict[str, Any]] = {}
    for kind, entries in (("snips", manifest.snips), ("refused", manifest.refused)):
        for snip_id, entry in entries.items():
            well = wells.setdefault(entry.well, {"snips": {}, "refused": {}})
            well[kind][snip_id] = entry.model_dump(mode="json")
    return wells
