"""Flags of masks: counted from scratch, by snip and by picture, with an overview (spec 1.8, 3.4)."""

from __future__ import annotations

import numpy as np
import pytest

from morphseq_dagster.morphseq.contracts.segmentations import SegmentationDocument
from morphseq_dagster.testing.documents import Mask, Masks, draw_block, lay_frames, make_segmentation
from morphseq_dagster.testing.step_bench import StepBench, read_document

EXPERIMENT = "20250529_ctrl"
SHAPE = (60, 80)
VIDEO = f"{EXPERIMENT}_A01"


def strip(area: int) -> Mask:
    """Mask of the given area away from the borders: full rows of 50 px and the rest in one more."""
    mask = draw_block(SHAPE, rows=(10, 10 + area // 50), columns=(10, 60))
    mask[10 + area // 50, 10 : 10 + area % 50] = True
    return mask


def run(bench: StepBench, masks: Masks, *, times: int | None = None) -> SegmentationDocument:
    """Segment and flag; `times` are the frames that were taken, those of the masks unless given."""
    grey = np.full(SHAPE, 200, np.uint8)
    frames = {well: dict.fromkeys(range(times) if times else by_time, grey) for well, by_time in masks.items()}
    lay_frames(bench, frames)
    bench.supply("sam2_tracks", make_segmentation(EXPERIMENT, masks))
    return read_document(bench.run("sam2_segmentations"), SegmentationDocument)


def test_only_the_frame_whose_area_jumps_is_flagged(bench: StepBench) -> None:
    # the test vector of spec 3.4
    areas = (100, 102, 98, 130, 101, 99)
    document = run(bench, {"A01": {t: {1: strip(area)} for t, area in enumerate(areas)}})
    assert set(document.flags["by_snip"]) == {f"{VIDEO}_e01_t0003"}
    (instance,) = document.flags["by_snip"][f"{VIDEO}_e01_t0003"]["HIGH_SEGMENTATION_VAR_SNIP"]
    assert instance["current_area"] == 130
    # |130 - (102 + 98) / 2| / 100 and |130 - (101 + 99) / 2| / 100
    assert (instance["diff_before_pct"], instance["diff_after_pct"]) == (pytest.approx(0.3), pytest.approx(0.3))
    assert (instance["author"], instance["timestamp"]) == ("pipeline_qc", None)


def test_every_flag_of_a_mask_is_found_with_its_limit(bench: StepBench) -> None:
    edge = draw_block(SHAPE, rows=(1, 11), columns=(20, 30))  # one row away from the border, margin 2
    inside = draw_block(SHAPE, rows=(2, 12), columns=(20, 30))  # two rows away
    large = draw_block(SHAPE, rows=(10, 34), columns=(10, 41))  # 744 of 4800 px, 0.155
    fair = draw_block(SHAPE, rows=(10, 34), columns=(10, 40))  # 720 of 4800 px, 0.15 exactly
    small = draw_block(SHAPE, rows=(30, 32), columns=(30, 32))  # 4 of 4800 px, 0.0008
    pieces = strip(100) | draw_block(SHAPE, rows=(30, 34), columns=(30, 34))
    empty = np.zeros(SHAPE, np.bool_)
    wells = {"A01": edge, "A02": inside, "A03": large, "A04": fair, "A05": small, "A06": pieces, "A07": empty}
    document = run(bench, {well: {0: {1: mask}} for well, mask in wells.items()})
    flags = {snip[len(EXPERIMENT) + 1 :][:3]: list(found) for snip, found in document.flags["by_snip"].items()}
    assert flags == {
        "A01": ["MASK_ON_EDGE"],
        "A03": ["LARGE_MASK"],
        "A05": ["SMALL_MASK"],
        "A06": ["DISCONTINUOUS_MASK"],
        "A07": ["EMPTY_MASK"],
    }


def test_flags_of_a_picture_stand_with_the_picture(bench: StepBench) -> None:
    one = draw_block(SHAPE, rows=(10, 20), columns=(10, 30))
    other = draw_block(SHAPE, rows=(10, 20), columns=(20, 40))  # 100 of 300 px: IoU 1/3
    document = run(bench, {"A01": {0: {1: one, 2: other}, 1: {}}}, times=3)
    flags = {image[-5:]: list(found) for image, found in document.flags["by_image"].items()}
    assert flags == {
        "t0000": ["OVERLAPPING_MASKS"],
        "t0001": ["DETECTION_FAILURE"],
        "t0002": ["MISSING_FRAME"],
    }
    (overlap,) = document.flags["by_image"][f"{VIDEO}_ch00_t0000"]["OVERLAPPING_MASKS"]
    assert overlap["iou"] == pytest.approx(1 / 3)
    assert document.flags["by_snip"] == {}


def test_overview_counts_and_lists_every_flag_once(bench: StepBench) -> None:
    small = draw_block(SHAPE, rows=(30, 32), columns=(30, 32))
    document = run(bench, {"A01": {0: {1: small}}, "A02": {0: {1: small}, 1: {}}})
    overview = document.flags["flag_overview"]
    assert overview["SMALL_MASK"] == {
        "count": 2,
        "snip_ids": [f"{EXPERIMENT}_A01_e01_t0000", f"{EXPERIMENT}_A02_e01_t0000"],
    }
    assert overview["DETECTION_FAILURE"] == {"count": 1, "image_ids": [f"{EXPERIMENT}_A02_ch00_t0001"]}
    processed = document.flags["qc_summary"]["total_entities_processed"]
    assert processed == {"experiments": 1, "videos": 2, "images": 3, "snips": 2}


def test_flags_are_made_from_scratch_not_added_to_earlier_ones(bench: StepBench) -> None:
    lay_frames(bench, {"A01": {0: np.full(SHAPE, 200, np.uint8)}})
    tracks = make_segmentation(
        EXPERIMENT, {"A01": {0: {1: strip(200)}}}, flags={"by_snip": {"of an earlier mask": {"SMALL_MASK": [{}]}}}
    )
    bench.supply("sam2_tracks", tracks)
    document = read_document(bench.run("sam2_segmentations"), SegmentationDocument)
    assert document.flags["by_snip"] == {}


def test_masks_themselves_are_not_touched(bench: StepBench) -> None:
    masks = {"A01": {0: {1: strip(200)}}}
    document = run(bench, masks)
    assert document.experiments == make_segmentation(EXPERIMENT, masks).experiments


def test_limits_come_from_the_recipe(bench: StepBench) -> None:
    lay_frames(bench, {"A01": {0: np.full(SHAPE, 200, np.uint8)}})
    bench.supply("sam2_tracks", make_segmentation(EXPERIMENT, {"A01": {0: {1: strip(200)}}}))
    result = bench.run("sam2_segmentations", recipe={"flags": {"small_share_max": 0.05}})
    # 200 of 4800 px are 0.042
    assert result.staged.counts == {"masks": 1, "small_mask": 1}
