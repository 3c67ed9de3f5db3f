from __future__ import annotations

import numpy as np
import pytest

from morphseq_dagster.errors import PermanentError
from morphseq_dagster.quality.mask_flags import (
    DetectionFailure,
    DiscontinuousMask,
    HighVariance,
    LargeMask,
    MaskFlags,
    MaskFlagSettings,
    MaskOnEdge,
    MissingFrame,
    OverlappingMasks,
    SmallMask,
    flag_masks,
)
from morphseq_dagster.quality.mask_measures import FrameMasks, MaskMeasure, measure_frame_masks

VIDEO = "20240418_A01"
E1, E2 = f"{VIDEO}_e01", f"{VIDEO}_e02"
SHAPE = (100, 200)


def _image(t: int) -> str:
    return f"{VIDEO}_ch00_t{t:04d}"


def _frame(t: int, masks: dict[str, np.ndarray]) -> FrameMasks:
    return measure_frame_masks(masks, video_id=VIDEO, image_id=_image(t), time_int=t, image_shape=SHAPE)


def _block(row0: int, row1: int, col0: int, col1: int) -> np.ndarray:
    mask = np.zeros(SHAPE, bool)
    mask[row0:row1, col0:col1] = True
    return mask


def _judge(frames: list[FrameMasks], *, settings: MaskFlagSettings | None = None) -> MaskFlags:
    expected = {VIDEO: {frame.time_int: frame.image_id for frame in frames}}
    return flag_masks(frames, expected=expected, settings=settings or MaskFlagSettings())


def _areas(areas: list[int]) -> list[FrameMasks]:
    return [
        FrameMasks(
            video_id=VIDEO,
            image_id=_image(t),
            time_int=t,
            image_shape=(100, 100),
            masks=(
                MaskMeasure(
                    embryo_id=E1,
                    area_px=area,
                    box_px=(20, 20, 60, 60) if area else None,
                    component_areas_px=(area,) if area else (),
                ),
            ),
            overlaps=(),
        )
        for t, area in enumerate(areas)
    ]


def test_variance_golden_case_flags_only_the_jump() -> None:
    flags = _judge(_areas([100, 102, 98, 130, 101, 99]))
    (jump,) = flags.snips
    assert isinstance(jump, HighVariance)
    assert jump.snip_id == f"{E1}_t0003"
    assert (jump.current_area, jump.avg_before, jump.avg_after) == (130, 100.0, 100.0)
    assert (jump.diff_before_pct, jump.diff_after_pct) == pytest.approx((0.3, 0.3))
    assert (jump.flagged_before, jump.flagged_after) == (True, True)
    assert (jump.frames_checked_before, jump.frames_checked_after) == (2, 2)


def test_variance_at_the_ends_of_a_series_uses_one_side() -> None:
    flags = _judge(_areas([150, 100, 100, 100]))
    first = flags.snips[0]
    assert isinstance(first, HighVariance)
    assert (first.avg_before, first.diff_before_pct, first.flagged_before) == (None, None, False)
    assert first.diff_after_pct == pytest.approx(0.5)
    assert first.frames_checked_before == 0


def test_an_empty_mask_is_flagged_itself_and_not_its_neighbours() -> None:
    flags = _judge(_areas([100, 100, 0, 100, 100]))
    assert [(f.flag, f.snip_id) for f in flags.snips] == [("EMPTY_MASK", f"{E1}_t0002")]
    assert [(f.flag, f.image_id) for f in flags.images] == [("DETECTION_FAILURE", _image(2))]


@pytest.mark.parametrize(
    ("block", "edges"),
    [
        ((2, 60, 2, 60), set()),
        ((1, 60, 10, 60), {"top"}),
        ((10, 99, 10, 60), {"bottom"}),
        ((10, 98, 10, 198), set()),
        ((10, 60, 1, 60), {"left"}),
        ((10, 60, 10, 199), {"right"}),
        ((0, 100, 0, 200), {"top", "bottom", "left", "right"}),
    ],
)
def test_edges_within_two_pixels(block: tuple[int, int, int, int], edges: set[str]) -> None:
    found = [f for f in _judge([_frame(0, {E1: _block(*block)})]).snips if isinstance(f, MaskOnEdge)]
    touched = {name for f in found for name, on in f.touches_edges.model_dump().items() if on}
    assert touched == edges
    assert all(f.margin_pixels == 2 and f.image_shape == SHAPE for f in found)


def test_large_mask_fires_beyond_fifteen_per_cent_of_the_frame() -> None:
    exactly, more = _block(10, 60, 10, 70), _block(10, 61, 10, 70)  # 3000 and 3060 of 20 000 pixels
    flags = _judge([_frame(0, {E1: exactly}), _frame(1, {E1: more})])
    (large,) = flags.snips
    assert isinstance(large, LargeMask)
    assert (large.snip_id, large.mask_area, large.total_area) == (f"{E1}_t0001", 3060, 20000)
    assert large.area_percentage == pytest.approx(0.153)
    assert large.threshold_used == 0.15


def test_small_mask_fires_below_a_thousandth() -> None:
    flags = _judge([_frame(0, {E1: _block(10, 14, 10, 15)}), _frame(1, {E1: _block(10, 14, 10, 14)})])
    small = [f for f in flags.snips if isinstance(f, SmallMask)]
    assert [(f.snip_id, f.mask_area) for f in small] == [(f"{E1}_t0001", 16)]


def test_pieces_are_counted_over_corners_and_listed_largest_first() -> None:
    diagonal = _block(10, 30, 10, 30) | _block(30, 40, 30, 40)
    apart = _block(10, 20, 10, 20) | _block(40, 80, 100, 140)
    flags = _judge([_frame(0, {E1: diagonal}), _frame(1, {E2: apart})])
    (pieces,) = flags.snips
    assert isinstance(pieces, DiscontinuousMask)
    assert pieces.snip_id == f"{E2}_t0001"
    assert (pieces.num_components, pieces.component_areas, pieces.total_area) == (2, (1600, 100), 1700)
    assert (pieces.largest_component_area, pieces.smallest_component_area) == (1600, 100)


def test_overlap_beyond_a_tenth() -> None:
    one, two = _block(10, 30, 10, 30), _block(10, 30, 26, 46)  # 80 shared, 720 united: 0.111
    less = _block(10, 30, 27, 47)  # 60 / 740 = 0.081
    flags = _judge([_frame(0, {E2: two, E1: one}), _frame(1, {E1: one, E2: less})])
    (overlap,) = flags.images
    assert isinstance(overlap, OverlappingMasks)
    assert (overlap.embryo_id1, overlap.embryo_id2) == (E1, E2)
    assert (overlap.snip_id1, overlap.snip_id2) == (f"{E1}_t0000", f"{E2}_t0000")
    assert (overlap.intersection_pixels, overlap.union_pixels) == (80, 720)
    assert overlap.iou == pytest.approx(1 / 9)
    assert flags.snips == ()


def test_missing_frames_and_frames_without_embryos_are_told_apart() -> None:
    frames = [_frame(0, {E1: _block(20, 40, 20, 40)}), _frame(2, {})]
    expected = {VIDEO: {t: _image(t) for t in range(4)}, "20240418_B01": {0: "20240418_B01_ch00_t0000"}}
    flags = flag_masks(frames, expected=expected)
    assert list(flags.images) == [
        MissingFrame(image_id=_image(1), video_id=VIDEO),
        DetectionFailure(image_id=_image(2), video_id=VIDEO, embryo_count=0, expected_min=1),
        MissingFrame(image_id=_image(3), video_id=VIDEO),
        MissingFrame(image_id="20240418_B01_ch00_t0000", video_id="20240418_B01"),
    ]


def test_flags_of_a_snip_have_the_fixed_order_whatever_the_order_of_finding() -> None:
    mask = _block(0, 90, 0, 90) | _block(95, 100, 195, 200)
    small = _block(20, 40, 20, 40)
    flags = _judge([_frame(0, {E1: small}), _frame(1, {E1: mask}), _frame(2, {E1: small})])
    assert [flag.flag for flag in flags.snips if flag.snip_id == f"{E1}_t0001"] == [
        "HIGH_SEGMENTATION_VAR_SNIP",
        "MASK_ON_EDGE",
        "LARGE_MASK",
        "DISCONTINUOUS_MASK",
    ]
    assert list(flags.counts().values()) == [3, 1, 1, 0, 1, 0, 0, 0, 0]


def test_order_of_frames_does_not_matter_and_nothing_is_kept_between_runs() -> None:
    frames = _areas([100, 102, 98, 130, 101, 99])
    assert _judge(frames) == _judge(frames[::-1]) == _judge(frames)


def test_masks_may_be_decoded_on_demand_and_json_keeps_a_frame() -> None:
    mask = _block(10, 30, 10, 30)
    lazily = measure_frame_masks({E1: lambda: mask}, video_id=VIDEO, image_id=_image(0), time_int=0, image_shape=SHAPE)
    assert lazily == _frame(0, {E1: mask})
    assert FrameMasks.model_validate_json(lazily.model_dump_json()) == lazily


def test_a_frame_given_twice_is_refused() -> None:
    frame = _frame(0, {E1: _block(10, 30, 10, 30)})
    with pytest.raises(PermanentError, match=_image(0)):
        flag_masks([frame, frame], expected={})


def test_a_mask_of_another_size_is_refused() -> None:
    with pytest.raises(PermanentError, match="another size"):
        _frame(0, {E1: np.zeros((10, 10), bool)})
