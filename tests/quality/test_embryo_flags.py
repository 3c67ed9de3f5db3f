from __future__ import annotations

import math

import numpy as np
import pytest

from morphseq_dagster.errors import PermanentError
from morphseq_dagster.quality.embryo_flags import AuxiliaryMasks, flag_embryo, judge_dead
from morphseq_dagster.quality.tri_state import TriStateFlag, unknown

UM = 10.0  # border strip: 15 px; reach: 30 px


def _block(row0: int, row1: int, col0: int, col1: int, shape: tuple[int, int] = (200, 300)) -> np.ndarray:
    mask = np.zeros(shape, bool)
    mask[row0:row1, col0:col1] = True
    return mask


BODY = _block(80, 120, 100, 200)


def test_an_embryo_without_auxiliary_masks_has_unknown_flags_never_true_ones() -> None:
    flags = flag_embryo(BODY, um_per_px=UM, fraction_alive=None)
    assert flags.frame_flag == TriStateFlag(False)
    assert flags.no_yolk_flag == unknown("no yolk mask")
    assert flags.focus_flag == unknown("no focus mask")
    assert flags.bubble_flag == unknown("no bubble mask")
    assert flags.dead_flag == unknown("viability not measured")


def test_frame_flag_fires_when_two_per_cent_lie_in_the_border_strip() -> None:
    # 100 rows; the strip is 15 px, so rows 0..14 are outside the inner area.
    inside = flag_embryo(_block(14, 114, 50, 60), um_per_px=UM, fraction_alive=1.0)
    assert inside.frame_flag == TriStateFlag(False)  # 99 % inner
    touching = flag_embryo(_block(13, 113, 50, 60), um_per_px=UM, fraction_alive=1.0)
    assert touching.frame_flag == TriStateFlag(True)  # 98 % inner: at most 0.98 fires


def test_the_border_strip_is_rounded_up_to_whole_pixels() -> None:
    # 150 / 9.9 = 15.15 -> 16 px: row 15 is now in the strip too.
    mask = _block(14, 114, 50, 60)
    assert flag_embryo(mask, um_per_px=9.9, fraction_alive=1.0).frame_flag == TriStateFlag(True)


@pytest.mark.parametrize(("gap", "flagged"), [(29, True), (30, False)])
def test_bubble_and_focus_within_300_um(gap: int, flagged: bool) -> None:
    # gap empty columns between body and bubble put their nearest pixels gap + 1 apart; the limit is 30 px.
    bubble = _block(90, 110, 200 + gap, 220 + gap)
    flags = flag_embryo(BODY, um_per_px=UM, fraction_alive=1.0, auxiliary=AuxiliaryMasks(bubble=bubble, focus=bubble))
    assert flags.bubble_flag == TriStateFlag(flagged)
    assert flags.focus_flag == TriStateFlag(flagged)


def test_distance_is_euclidean_over_the_corner() -> None:
    # 22 rows and 22 columns away: 31.1 px > 30, though 22 along each axis.
    corner = _block(141, 150, 221, 230)
    flags = flag_embryo(BODY, um_per_px=UM, fraction_alive=1.0, auxiliary=AuxiliaryMasks(bubble=corner))
    assert flags.bubble_flag == TriStateFlag(False)


def test_an_empty_bubble_mask_is_known_and_fine() -> None:
    flags = flag_embryo(BODY, um_per_px=UM, fraction_alive=1.0, auxiliary=AuxiliaryMasks(bubble=np.zeros_like(BODY)))
    assert flags.bubble_flag == TriStateFlag(False)


def test_yolk_flag_needs_a_shared_pixel() -> None:
    for yolk, want in ((_block(0, 81, 0, 101), False), (_block(0, 80, 0, 300), True)):
        flags = flag_embryo(BODY, um_per_px=None, fraction_alive=1.0, auxiliary=AuxiliaryMasks(yolk=yolk))
        assert flags.no_yolk_flag == TriStateFlag(want)


def test_unknown_pixel_size_leaves_distances_unknown() -> None:
    near = AuxiliaryMasks(bubble=BODY, focus=BODY)
    flags = flag_embryo(BODY, um_per_px=None, fraction_alive=1.0, auxiliary=near)
    for verdict in (flags.frame_flag, flags.bubble_flag, flags.focus_flag):
        assert verdict == unknown("unknown pixel size")


def test_a_frame_smaller_than_its_strip_is_unknown() -> None:
    mask = _block(10, 20, 10, 20, shape=(30, 300))
    assert flag_embryo(mask, um_per_px=UM, fraction_alive=1.0).frame_flag.value is None


def test_empty_mask_is_unknown_everywhere_but_death() -> None:
    flags = flag_embryo(np.zeros((200, 300), bool), um_per_px=UM, fraction_alive=0.1)
    assert flags.frame_flag == flags.no_yolk_flag == flags.bubble_flag == unknown("empty mask")
    assert flags.dead_flag == TriStateFlag(True)


def test_dead_below_nine_tenths_and_unknown_without_a_number() -> None:
    assert judge_dead(0.9) == TriStateFlag(False)
    assert judge_dead(0.899) == TriStateFlag(True)
    assert judge_dead(math.nan) == judge_dead(None) == unknown("viability not measured")


def test_auxiliary_masks_of_another_size_are_refused() -> None:
    with pytest.raises(PermanentError, match="nearest neighbour"):
        flag_embryo(BODY, um_per_px=UM, fraction_alive=1.0, auxiliary=AuxiliaryMasks(bubble=BODY.T))
