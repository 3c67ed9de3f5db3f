from __future__ import annotations

import math

import cv2
import numpy as np
import pytest
from scipy import ndimage

from morphseq_dagster.errors import PermanentError
from morphseq_dagster.morphometry.background import BackgroundStatistics
from morphseq_dagster.morphometry.snips import NoSnip, Snip, SnipSettings, extract_snip

SNIP_ID = "20240418_A01_e01_t0000"
BACKGROUND = BackgroundStatistics(mean=10.0, sd=5.0)


def _embryo(
    angle_deg: float, *, shape: tuple[int, int] = (900, 1100), centre: tuple[float, float] = (450.0, 550.0)
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Bright-background frame, body mask and yolk mask of a drop whose tail points `angle_deg` from down."""
    row, col = centre
    down = np.array([math.cos(math.radians(angle_deg)), math.sin(math.radians(angle_deg))])
    head, tail = np.array([row, col]) - 130 * down, np.array([row, col]) + 190 * down
    body, yolk = np.zeros(shape, np.uint8), np.zeros(shape, np.uint8)
    cv2.circle(body, (round(head[1]), round(head[0])), 80, 1, -1)
    cv2.line(body, (round(head[1]), round(head[0])), (round(tail[1]), round(tail[0])), 1, 40)
    cv2.circle(yolk, (round(head[1]), round(head[0])), 50, 1, -1)
    image = np.full(shape, 200, np.uint8)
    image[body > 0] = 90
    image[yolk > 0] = 40
    return image, body > 0, yolk > 0


def _snip(
    angle_deg: float = 35.0,
    *,
    um_per_px: float | None = 3.25,
    snip_id: str = SNIP_ID,
    settings: SnipSettings | None = None,
    with_yolk: bool = True,
) -> Snip:
    image, mask, yolk = _embryo(angle_deg)
    made = extract_snip(
        image,
        mask=mask,
        um_per_px=um_per_px,
        polarity="bright_background",
        background=BACKGROUND,
        snip_id=snip_id,
        yolk=yolk if with_yolk else None,
        settings=settings or SnipSettings(),
    )
    assert isinstance(made, Snip)
    return made


@pytest.mark.parametrize("angle", [0, 35, 90, 160, 250])
def test_snip_is_upright_centred_and_to_scale_from_every_angle(angle: float) -> None:
    snip = _snip(angle)
    assert snip.mask.shape == snip.blended.shape == snip.uncropped.shape == (576, 256)
    assert snip.blended.dtype == snip.mask.dtype == np.uint8
    assert set(np.unique(snip.mask)) == {0, 255}
    rows, cols = np.nonzero(snip.mask)
    # Body 420 px long (320 between the ends' centres + 80 + 20) and 160 px wide at 3.25 um = half that at 6.5 um.
    assert rows.max() - rows.min() + 1 == pytest.approx(210, abs=2)
    assert cols.max() - cols.min() + 1 == pytest.approx(80, abs=2)
    assert (rows.max() + rows.min()) / 2 == pytest.approx(287.5, abs=1)
    assert (cols.max() + cols.min()) / 2 == pytest.approx(127.5, abs=1)
    assert rows[np.argmin(np.abs(rows - rows.min()))] < 288
    width_top = np.count_nonzero(snip.mask[rows.min() + 40])
    width_bottom = np.count_nonzero(snip.mask[rows.max() - 40])
    assert width_top > 2 * width_bottom
    assert not snip.out_of_frame
    assert snip.kept_share == 1.0


def test_area_is_kept_when_scaling() -> None:
    image, mask, _ = _embryo(35)
    for um_per_px in (1.887, 3.25, 6.5, 9.5):
        made = extract_snip(
            image,
            mask=mask,
            um_per_px=um_per_px,
            polarity="bright_background",
            background=BACKGROUND,
            snip_id=SNIP_ID,
            settings=SnipSettings(rows=900, cols=500),
        )
        assert isinstance(made, Snip)
        area = np.count_nonzero(made.mask) * 6.5**2
        assert area == pytest.approx(mask.sum() * um_per_px**2, rel=0.02)


def test_shrinking_averages_areas_instead_of_picking_pixels() -> None:
    image, mask, _ = _embryo(0)
    # A checkerboard of single pixels averages to grey; picking pixels would keep 0 and 255 or alias.
    yy, xx = np.indices(image.shape)
    board = np.where((yy + xx) % 2 == 0, 255, 0).astype(np.uint8)
    made = extract_snip(
        board,
        mask=mask,
        um_per_px=6.5 / 4,
        polarity="dark_background",
        background=BACKGROUND,
        snip_id=SNIP_ID,
        settings=SnipSettings(clahe_clip=0.01),
    )
    assert isinstance(made, Snip)
    inner = ndimage.binary_erosion(made.mask > 0, iterations=12)
    assert np.ptp(made.uncropped[inner].astype(int)) <= 6


def test_embryo_is_bright_and_surroundings_are_noise_of_the_given_level() -> None:
    snip = _snip()
    outside = ~ndimage.binary_dilation(snip.mask > 0, iterations=45)
    inside = ndimage.binary_erosion(snip.mask > 0, iterations=10)
    assert snip.blended[outside].mean() == pytest.approx(10.28, abs=0.15)
    assert snip.blended[inside].mean() > 80
    assert snip.uncropped[inside].mean() > snip.uncropped[outside].mean() + 30


def test_dark_background_pictures_are_taken_as_they_are() -> None:
    image, mask, yolk = _embryo(35)
    common = {"mask": mask, "um_per_px": 3.25, "background": BACKGROUND, "snip_id": SNIP_ID, "yolk": yolk}
    bright = extract_snip(image, polarity="bright_background", **common)
    dark = extract_snip(255 - image, polarity="dark_background", **common)
    assert isinstance(bright, Snip)
    assert isinstance(dark, Snip)
    assert np.array_equal(bright.blended, dark.blended)


def test_taper_follows_a_gaussian_of_the_mask() -> None:
    snip = _snip(settings=SnipSettings(taper_um=50.0))
    weight = ndimage.gaussian_filter((snip.mask > 0).astype(float), 50 / 6.5, mode="nearest")
    reached = snip.blended.astype(float)
    mixed = weight * snip.uncropped.astype(float) + (1 - weight) * 10.28
    assert np.abs(reached - mixed).mean() < 5.0
    flat = SnipSettings(taper_um=50.0)
    again = _snip(settings=flat)
    assert np.array_equal(again.blended, snip.blended)


def test_noise_differs_between_snips_and_nothing_else_does() -> None:
    first, second = _snip(), _snip(snip_id="20240418_A01_e01_t0001")
    assert np.array_equal(first.uncropped, second.uncropped)
    assert np.array_equal(first.mask, second.mask)
    assert not np.array_equal(first.blended, second.blended)


def test_yolk_is_on_top_and_absent_without_a_mask() -> None:
    snip = _snip(200)
    assert snip.yolk is not None
    assert snip.head_rule == "yolk"
    rows, _ = np.nonzero(snip.yolk)
    assert rows.mean() < 260
    plain = _snip(200, with_yolk=False)
    assert plain.yolk is None
    assert plain.head_rule == "mass"
    assert np.array_equal(plain.mask, snip.mask)


def test_an_embryo_longer_than_the_snip_is_out_of_frame() -> None:
    snip = _snip(settings=SnipSettings(rows=160))
    assert snip.out_of_frame
    # 160 of 210 rows remain; what is lost is from both ends.
    assert 0.6 < snip.kept_share < 0.9


def test_an_embryo_cut_by_the_frame_still_gives_a_snip_with_black_beyond() -> None:
    image, mask, _ = _embryo(35, centre=(60.0, 550.0))
    made = extract_snip(
        image,
        mask=mask,
        um_per_px=3.25,
        polarity="bright_background",
        background=BACKGROUND,
        snip_id=SNIP_ID,
    )
    assert isinstance(made, Snip)
    assert not made.out_of_frame
    assert (made.uncropped == made.uncropped.min()).mean() > 0.05


def test_unknown_pixel_size_and_empty_mask_give_reasons() -> None:
    image, mask, _ = _embryo(0)
    for given, um_per_px, reason, out in (
        (mask, None, "unknown pixel size", None),
        (np.zeros_like(mask), 3.25, "empty mask", True),
        (np.zeros_like(mask), None, "empty mask", True),
    ):
        refused = extract_snip(
            image,
            mask=given,
            um_per_px=um_per_px,
            polarity="bright_background",
            background=BACKGROUND,
            snip_id=SNIP_ID,
        )
        assert refused == NoSnip(reason, out)


def test_mask_of_another_size_is_refused() -> None:
    image, mask, _ = _embryo(0)
    with pytest.raises(PermanentError, match="export the mask"):
        extract_snip(
            image[:-1],
            mask=mask,
            um_per_px=3.25,
            polarity="bright_background",
            background=BACKGROUND,
            snip_id=SNIP_ID,
        )


def test_left_and_right_are_not_swapped_in_landscape_or_portrait() -> None:
    image, mask, _ = _embryo(90)
    spot = np.zeros_like(mask)
    # On the embryo's left when looking from head to tail: for a tail pointing right, above the body's axis.
    spot[370:440, 400:470] = True
    marked = image.copy()
    marked[spot] = 0
    landscape = extract_snip(
        marked,
        mask=mask,
        um_per_px=3.25,
        polarity="bright_background",
        background=BACKGROUND,
        snip_id=SNIP_ID,
    )
    turned = extract_snip(
        np.ascontiguousarray(np.rot90(marked)),
        mask=np.ascontiguousarray(np.rot90(mask)),
        um_per_px=3.25,
        polarity="bright_background",
        background=BACKGROUND,
        snip_id=SNIP_ID,
    )
    assert isinstance(landscape, Snip)
    assert isinstance(turned, Snip)
    difference = np.abs(landscape.uncropped.astype(int) - turned.uncropped.astype(int))
    mirrored = np.abs(landscape.uncropped.astype(int) - turned.uncropped[:, ::-1].astype(int))
    assert difference.mean() < 0.5
    assert mirrored.mean() > 1.0


@pytest.mark.parametrize(("row", "col"), [(212.0, 550.0), (450.0, 80.0), (450.0, 1019.0), (707.0, 550.0)])
def test_embryo_at_the_border_is_cut_as_from_a_larger_frame(row: float, col: float) -> None:
    image, mask, _ = _embryo(0, centre=(row, col))
    rows, cols = np.nonzero(mask)
    assert min(rows.min(), cols.min(), 899 - rows.max(), 1099 - cols.max()) <= 3
    common = {"um_per_px": 3.25, "polarity": "bright_background", "background": BACKGROUND, "snip_id": SNIP_ID}
    made = extract_snip(image, mask=mask, **common)
    # White is black once the picture is inverted, which is what lies beyond a frame.
    larger = extract_snip(np.pad(image, 400, constant_values=255), mask=np.pad(mask, 400), **common)
    assert isinstance(made, Snip)
    assert isinstance(larger, Snip)
    np.testing.assert_array_equal(made.mask, larger.mask)
    np.testing.assert_array_equal(made.uncropped, larger.uncropped)
    np.testing.assert_array_equal(made.blended, larger.blended)
