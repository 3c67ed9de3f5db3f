"""Step `exported_masks`: label pictures, one per image with an embryo, and their manifest, as one unit (spec 1.9).

Pixel k belongs to embryo number k; the higher number wins where masks overlap.
"""

from __future__ import annotations

from pathlib import Path

from morphseq_dagster.engine.contract.context import Account, StepContext
from morphseq_dagster.engine.contract.step import StepResult
from morphseq_dagster.engine.contract.wells import WellTask, map_wells
from morphseq_dagster.engine.storage.checkpoints import WellPayload
from morphseq_dagster.identifiers import parse_embryo
from morphseq_dagster.imaging.pictures import encode_png
from morphseq_dagster.morphseq.contracts.exported_masks import ExportedMasks, MaskExport
from morphseq_dagster.morphseq.contracts.segmentations import ImageSegmentation, SegmentationDocument, list_entities
from morphseq_dagster.morphseq.recipes import ExportedMasksRecipe
from morphseq_dagster.morphseq.steps.image_sets import link_entries
from morphseq_dagster.segmentation.label_image import draw_label_image
from morphseq_dagster.segmentation.rle import Rle, decode

_COMPRESSION = 6
"""PNG level of label pictures: four times smaller than level 1 for about the same time."""


def run(context: StepContext) -> StepResult:
    """Export the label pictures of an experiment."""
    recipe = context.recipe(ExportedMasksRecipe)
    images = _read_images(context)
    folder = context.layout.folders("exported_masks", experiment=context.experiment)[0]

    def restore(task: WellTask) -> WellPayload | None:
        paths = [folder / "masks" / mask_file(image) for image in images[task.well]]
        return WellPayload({}, {path.name: path for path in paths}) if all(p.is_file() for p in paths) else None

    tasks = [
        WellTask(
            well,
            [
                [image.image_id, [[e.embryo_id, e.segmentation.counts] for e in image.embryos.values()]]
                for image in images[well]
            ],
        )
        for well in sorted(images)
    ]
    done = map_wells(
        context,
        tasks=tasks,
        compute=_draw_well,
        load=_read_images,
        state=images,
        restore=restore,
        max_failed_share=recipe.max_failed_share,
    )
    files = {folder / "masks" / n: Path(str(p)) for payload in done.payloads.values() for n, p in payload.files.items()}
    written = [image for well in sorted(done.payloads) for image in images[well]]
    exports = {
        image.image_id: MaskExport(
            image_id=image.image_id,
            output_path=context.layout.relative(folder / "masks" / mask_file(image)),
            embryo_count=len(image.embryos),
            source_file=context.input("sam2_segmentations").path,
            image_shape=next(iter(image.embryos.values())).segmentation.size,
        )
        for image in written
    }
    manifest = ExportedMasks(
        experiment_id=context.experiment,
        files=link_entries(context.layout, files),
        entity_tracking=list_entities(context.experiment, written),
        exports=exports,
        failed_wells={well: state.reason for well, state in done.states.items() if state.status == "failed"},
        total_exported=len(exports),
    )
    account = Account(wells=done.states, counts={"masks": len(exports), "wells_computed": done.computed})
    return context.stage_images(files, manifest=manifest, folders=(folder,), account=account)


def mask_file(image: ImageSegmentation) -> str:
    """File name of an image's label picture; carries the number of embryos (spec 1.9)."""
    return f"{image.image_id}_masks_emnum_{len(image.embryos)}.png"


def _read_images(context: StepContext) -> dict[str, list[ImageSegmentation]]:
    """Read the images with embryos by well."""
    document = context.document("sam2_segmentations", SegmentationDocument)
    videos = document.experiments[context.experiment].videos.values()
    return {v.well_id: [image for image in v.image_ids.values() if image.embryos] for v in videos if v.sam2_success}


def _draw_well(task: WellTask, images: dict[str, list[ImageSegmentation]]) -> WellPayload:
    return WellPayload({}, {mask_file(image): _draw(image) for image in images[task.well]})


def _draw(image: ImageSegmentation) -> bytes:
    entries = list(image.embryos.values())
    masks = [
        (parse_embryo(e.embryo_id)[2], decode(Rle.from_base64(e.segmentation.counts, size=e.segmentation.size)))
        for e in entries
    ]
    return encode_png(draw_label_image(masks, shape=entries[0].segmentation.size), compression=_COMPRESSION)
