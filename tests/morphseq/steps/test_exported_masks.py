"""Label pictures: pixel k is embryo k, one picture per image with an embryo, nothing left of an earlier version."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from morphseq_dagster.engine.executors.execution import publish
from morphseq_dagster.engine.executors.protocol import Executed
from morphseq_dagster.imaging.pictures import read_grey
from morphseq_dagster.morphseq.contracts.exported_masks import ExportedMasks
from morphseq_dagster.morphseq.contracts.segmentations import SegmentationDocument
from morphseq_dagster.testing.documents import draw_block, make_segmentation
from morphseq_dagster.testing.step_bench import StepBench, read_document

EXPERIMENT = "20250529_ctrl"
SHAPE = (40, 60)
LEFT = draw_block(SHAPE, rows=(5, 25), columns=(5, 25))
RIGHT = draw_block(SHAPE, rows=(5, 25), columns=(15, 45))


def publish_masks(bench: StepBench, document: SegmentationDocument) -> ExportedMasks:
    bench.supply("sam2_segmentations", document)
    result = bench.run("exported_masks")
    manifest = read_document(result, ExportedMasks)
    request = bench.request("exported_masks")
    executed = Executed(request, result.staged, started_at="", finished_at="", seconds=0, cpu_seconds=0, place="test")
    publish(bench.layout, executed=executed)
    return manifest


def damage(document: SegmentationDocument, *, well: str) -> SegmentationDocument:
    """Cut the run lengths of a well's masks short."""
    value = document.model_dump(mode="json")
    for video in value["experiments"][EXPERIMENT]["videos"].values():
        for image in video["image_ids"].values() if video["well_id"] == well else ():
            for embryo in image["embryos"].values():
                embryo["segmentation"]["counts"] = "AAAA"
    return SegmentationDocument.model_validate(value)


def mask_folder(bench: StepBench) -> Path:
    return bench.layout.folders("exported_masks", experiment=EXPERIMENT)[0] / "masks"


def test_pixels_carry_the_embryo_s_number_and_the_higher_one_wins(bench: StepBench) -> None:
    publish_masks(bench, make_segmentation(EXPERIMENT, {"A01": {0: {1: LEFT, 2: RIGHT}}}))
    labels = read_grey(mask_folder(bench) / f"{EXPERIMENT}_A01_ch00_t0000_masks_emnum_2.png").pixels
    assert labels.shape == SHAPE
    assert labels.dtype == np.uint8
    expected = np.where(RIGHT, 2, np.where(LEFT, 1, 0))
    np.testing.assert_array_equal(labels, expected)


def test_numbers_are_the_embryos_not_their_order_in_the_picture(bench: StepBench) -> None:
    publish_masks(bench, make_segmentation(EXPERIMENT, {"A01": {0: {1: LEFT, 3: RIGHT}, 1: {3: RIGHT}}}))
    labels = read_grey(mask_folder(bench) / f"{EXPERIMENT}_A01_ch00_t0001_masks_emnum_1.png").pixels
    assert set(np.unique(labels)) == {0, 3}


def test_pictures_without_an_embryo_and_failed_wells_have_no_file(bench: StepBench) -> None:
    document = make_segmentation(EXPERIMENT, {"A01": {0: {1: LEFT}, 1: {}}}, failed={"B02": "lost"})
    manifest = publish_masks(bench, document)
    assert list(manifest.exports) == [f"{EXPERIMENT}_A01_ch00_t0000"]
    assert [path.name for path in mask_folder(bench).iterdir()] == [f"{EXPERIMENT}_A01_ch00_t0000_masks_emnum_1.png"]


def test_well_whose_masks_cannot_be_drawn_is_named_and_the_others_go_on(bench: StepBench) -> None:
    document = make_segmentation(EXPERIMENT, {"A01": {0: {1: LEFT}}, "B02": {0: {1: LEFT}}})
    manifest = publish_masks(bench, damage(document, well="B02"))
    assert list(manifest.exports) == [f"{EXPERIMENT}_A01_ch00_t0000"]
    assert list(manifest.failed_wells) == ["B02"]
    assert manifest.failed_wells["B02"]


def test_embryo_with_an_empty_mask_still_counts(bench: StepBench) -> None:
    document = make_segmentation(EXPERIMENT, {"A01": {0: {1: np.zeros(SHAPE, np.bool_)}}})
    manifest = publish_masks(bench, document)
    assert manifest.exports[f"{EXPERIMENT}_A01_ch00_t0000"].embryo_count == 1
    labels = read_grey(mask_folder(bench) / f"{EXPERIMENT}_A01_ch00_t0000_masks_emnum_1.png").pixels
    assert not labels.any()


def test_no_file_is_left_of_a_segmentation_with_another_count(bench: StepBench) -> None:
    publish_masks(bench, make_segmentation(EXPERIMENT, {"A01": {0: {1: LEFT, 2: RIGHT}, 1: {1: LEFT}}}))
    assert len(list(mask_folder(bench).iterdir())) == 2
    publish_masks(bench, make_segmentation(EXPERIMENT, {"A01": {0: {1: LEFT}, 1: {}}}))
    assert [path.name for path in mask_folder(bench).iterdir()] == [f"{EXPERIMENT}_A01_ch00_t0000_masks_emnum_1.png"]


def test_manifest_lists_what_was_written(bench: StepBench) -> None:
    document = make_segmentation(EXPERIMENT, {"A01": {0: {1: LEFT, 2: RIGHT}, 1: {}}, "A02": {0: {1: LEFT}}})
    manifest = publish_masks(bench, document)
    assert manifest.total_exported == 2
    export = manifest.exports[f"{EXPERIMENT}_A01_ch00_t0000"]
    assert (export.embryo_count, export.image_shape, export.export_timestamp) == (2, SHAPE, None)
    assert export.source_file == (f"sam2_pipeline_files/segmentation/grounded_sam_segmentations_{EXPERIMENT}.json")
    assert set(manifest.files) == {e.output_path for e in manifest.exports.values()}
    tracked = manifest.entity_tracking
    assert tracked.images == (f"{EXPERIMENT}_A01_ch00_t0000", f"{EXPERIMENT}_A02_ch00_t0000")
    assert tracked.embryos == (f"{EXPERIMENT}_A01_e01", f"{EXPERIMENT}_A01_e02", f"{EXPERIMENT}_A02_e01")
    assert len(tracked.snips) == 3
