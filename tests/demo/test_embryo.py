"""Shape and drawing of synthetic embryos."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest

from morphseq_dagster.demo.embryo import EmbryoDesign, Pose, chorion_centre_um, design_embryo, outline_um, shape_midline
from morphseq_dagster.demo.optics import ChorionPlace, EmbryoLook, EmbryoPicture, place_chorion, render_embryo

LOOK = EmbryoLook(absorbance=0.8, grain=0.036, chorion=1.0)


def render(
    *, has_chorion: bool, age_hpf: float, opacity: float = 0.0, um_per_px: float = 6.0
) -> tuple[EmbryoDesign, ChorionPlace | None, EmbryoPicture]:
    design = design_embryo(3, name="A01", has_chorion=has_chorion, planes=5)
    pose = Pose(300, 300, 0.4, age_hpf, opacity)
    chorion = place_chorion(design, base=pose, first_age_hpf=age_hpf, last_age_hpf=age_hpf, um_per_px=um_per_px)
    picture = render_embryo(design, pose=pose, chorion=chorion, look=LOOK, um_per_px=um_per_px, scene_shape=(600, 600))
    return design, chorion, picture


@pytest.mark.parametrize(("age_hpf", "length_um"), [(24.0, 1900.0), (27.0, 2175.0), (48.0, 3100.0)])
def test_body_length_follows_the_staging_series(age_hpf: float, length_um: float) -> None:
    design = design_embryo(0, name="A01", has_chorion=False, planes=5)
    midline = shape_midline(design, age_hpf=age_hpf)
    walked = np.hypot(*np.diff(midline.points_um, axis=0).T).sum()
    assert midline.length_um == pytest.approx(length_um)
    assert walked == pytest.approx(length_um, rel=0.002)


@pytest.mark.parametrize("age_hpf", [10.0, 16.0, 24.0, 32.0])
def test_embryo_fits_into_its_chorion_at_every_age(age_hpf: float) -> None:
    for seed in range(20):
        design = design_embryo(seed, name="A01", has_chorion=True, planes=5)
        centre = chorion_centre_um(design, first_age_hpf=age_hpf, last_age_hpf=age_hpf + 3)
        for age in (age_hpf, age_hpf + 3):
            away = outline_um(shape_midline(design, age_hpf=age)) - centre
            assert np.hypot(away[:, 0], away[:, 1]).max() < 0.95 * design.chorion_um


@pytest.mark.parametrize("age_hpf", [9.9, 48.1])
def test_age_outside_the_drawing_is_refused(age_hpf: float) -> None:
    with pytest.raises(ValueError, match="hpf"):
        shape_midline(design_embryo(0, name="A01", has_chorion=True, planes=5), age_hpf=age_hpf)


@pytest.mark.parametrize("has_chorion", [True, False])
@pytest.mark.parametrize("age_hpf", [12.0, 18.0, 24.0, 30.0])
def test_silhouette_is_one_piece_of_plausible_area(has_chorion: bool, age_hpf: float) -> None:
    _, _, picture = render(has_chorion=has_chorion, age_hpf=age_hpf)
    parts, _, stats, _ = cv2.connectedComponentsWithStats(picture.mask.astype(np.uint8), connectivity=4)
    assert parts == 2
    # Yolk alone: 0.27 to 0.37 mm2; body of 2.5 mm by 0.17 mm: 0.43 mm2.
    assert 0.35 < stats[1, cv2.CC_STAT_AREA] * 6.0**2 / 1e6 < 0.80


def test_mirrored_embryo_is_the_reflection() -> None:
    design = design_embryo(1, name="A01", has_chorion=False, planes=5)
    there = shape_midline(replace(design, mirrored=False), age_hpf=24.0).points_um
    back = shape_midline(replace(design, mirrored=True), age_hpf=24.0).points_um
    assert np.array_equal(there * [1, -1], back)


def test_mask_is_body_and_yolk_without_chorion() -> None:
    _, chorion, picture = render(has_chorion=True, age_hpf=22.0)
    assert chorion is not None
    rows, columns = np.nonzero(picture.mask)
    from_centre = np.hypot(rows + picture.row_px - chorion.row_px, columns + picture.column_px - chorion.column_px)
    assert from_centre.max() < 0.95 * chorion.radius_px
    assert picture.mask.sum() < 0.7 * np.pi * chorion.radius_px**2


def test_dead_embryo_is_darker_and_smoother() -> None:
    _, _, alive = render(has_chorion=False, age_hpf=24.0)
    _, _, dead = render(has_chorion=False, age_hpf=24.0, opacity=1.0)
    assert np.array_equal(alive.mask, dead.mask)
    inside = cv2.erode(alive.mask.astype(np.uint8), np.ones((9, 9))) > 0
    light, dark = np.exp(-alive.absorbance), np.exp(-dead.absorbance)
    assert np.median(dark[inside]) < 0.5 * np.median(light[inside])

    def fine(picture: np.ndarray) -> float:
        return float(np.median(np.abs(picture - cv2.GaussianBlur(picture, (0, 0), 2))[inside]))

    assert fine(dark) < 0.35 * fine(light)


def test_parts_lie_at_the_heights_of_the_design() -> None:
    design, _, picture = render(has_chorion=False, age_hpf=26.0)
    heights = {float(v) for v in np.unique(picture.height[picture.mask])}
    assert heights == {np.float32(h) for h in (design.head_plane, design.trunk_plane, design.tail_plane)}
    assert len({round(h) for h in heights}) == 3
