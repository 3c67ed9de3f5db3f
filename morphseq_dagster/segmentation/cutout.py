"""From a box in a frame to a full-resolution mask: cut-outs, domains and the way back.

The choice between body and chorion and the use of the previous mask are here, the outline itself in `outline`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import cv2
import numpy as np
from numpy.typing import NDArray

from morphseq_dagster.detection.backends import Box
from morphseq_dagster.detection.chorions import Chorion
from morphseq_dagster.detection.classical import ClassicalDetector, normalise_box
from morphseq_dagster.detection.filtering import measure_box_iou
from morphseq_dagster.detection.regions import level_water
from morphseq_dagster.detection.work_image import FloatImage, WorkPicture
from morphseq_dagster.segmentation.model import MaskTarget, scale_box
from morphseq_dagster.segmentation.outline import Outline, find_outline, to_px
from morphseq_dagster.segmentation.parameters import ClassicalSegmenterSettings

Mask = NDArray[np.bool_]
SAME_CHORION_IOU = 0.5
"""A box is that of a chorion when it overlaps the chorion's box by at least this."""


@dataclass(frozen=True)
class FramePicture:
    """A frame with its work picture and the chorions that were found in it (work pixels)."""

    image: NDArray[np.uint8]
    work: WorkPicture
    chorions: tuple[Chorion, ...]
    um_per_px: float | None

    @property
    def shape(self) -> tuple[int, int]:
        """(H, W) of the frame."""
        return self.image.shape[0], self.image.shape[1]


@dataclass(frozen=True)
class FoundMask:
    """A mask at full resolution: its cut-out (h, w) bool, the frame's row and column of the first pixel."""

    crop: Mask
    top: int
    left: int
    target: MaskTarget
    confidence: float


@dataclass(frozen=True)
class Earlier:
    """The embryo's mask in the neighbouring frame, and its displacement (x, y) in frame pixels since then."""

    mask: FoundMask
    moved: tuple[float, float]


@dataclass(frozen=True)
class _Cutout:
    """A piece of the frame at outline resolution.

    `top`, `left`, `height`, `width` in frame pixels; `flat` (h, w) float32 brightness over background; `x0`, `y0`,
    `step_x`, `step_y` place its pixels in the work picture.
    """

    top: int
    left: int
    height: int
    width: int
    flat: FloatImage
    um_per_px: float
    x0: float
    y0: float
    step_x: float
    step_y: float

    @property
    def transform(self) -> NDArray[np.float64]:
        """From pixels of the cut-out to those of the work picture, (2, 3)."""
        return np.array([[self.step_x, 0, self.x0], [0, self.step_y, self.y0]])


def prepare_frame(image: NDArray[np.uint8], *, um_per_px: float | None, detector: ClassicalDetector) -> FramePicture:
    """Prepare a frame and find its chorions."""
    work = detector.prepare(image, um_per_px=um_per_px)
    chorions, _ = detector.find(work)
    return FramePicture(image, work, chorions, um_per_px)


def find_mask(
    picture: FramePicture,
    *,
    box: Box,
    settings: ClassicalSegmenterSettings,
    earlier: Earlier | None = None,
) -> FoundMask:
    """Mask of the embryo in a normalised box; an earlier one is tried as a prior when the area jumps.

    Returns
    -------
    FoundMask
        Of the body; of the chorion when that is all there is to see. Its crop is empty, its confidence 0, when
        neither is found.
    """
    chorion = match_chorion(picture, box)
    if chorion is not None:
        return _find_in_chorion(picture, chorion, settings=settings, earlier=earlier)
    return _find_in_open(picture, box, settings=settings, earlier=earlier)


def match_chorion(picture: FramePicture, box: Box) -> Chorion | None:
    """The chorion that a box encloses, None for a box of a body."""
    rated = [(measure_box_iou(normalise_box(c.box(), picture.work), box), c) for c in picture.chorions]
    best = max(rated, key=lambda pair: pair[0], default=None)
    return best[1] if best is not None and best[0] >= SAME_CHORION_IOU else None


def _cut(picture: FramePicture, corners: tuple[float, float, float, float], um_per_px: float, target: float) -> _Cutout:
    """Cut out a box given in frame pixels and reduce it to about `target` um per pixel."""
    height, width = picture.shape
    left, top = max(0, int(np.floor(corners[0]))), max(0, int(np.floor(corners[1])))
    right, bottom = min(width, int(np.ceil(corners[2])) + 1), min(height, int(np.ceil(corners[3])) + 1)
    right, bottom = max(right, left + 1), max(bottom, top + 1)
    piece = picture.image[top:bottom, left:right]
    factor = min(1.0, um_per_px / target)
    size = (max(4, round((right - left) * factor)), max(4, round((bottom - top) * factor)))
    small = cv2.resize(piece, size, interpolation=cv2.INTER_AREA).astype(np.float32)
    step_x = (right - left) / size[0] / picture.work.scale_x
    step_y = (bottom - top) / size[1] / picture.work.scale_y
    x0 = (left / picture.work.scale_x) + step_x / 2 - 0.5
    y0 = (top / picture.work.scale_y) + step_y / 2 - 0.5
    transform = np.array([[step_x, 0, x0], [0, step_y, y0]])
    background = cv2.warpAffine(
        picture.work.background,
        transform,
        size,
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REPLICATE,
    )
    flat = np.asarray(small / np.maximum(background, 1.0), dtype=np.float32)
    pixel = um_per_px * (right - left) / size[0]
    return _Cutout(top, left, bottom - top, right - left, flat, pixel, x0, y0, step_x, step_y)


def _fill_chorion(cutout: _Cutout, chorion: Chorion, *, factor: float = 1.0) -> Mask:
    """Inside of a chorion (work pixels) in a cut-out."""
    moved = replace(
        chorion,
        x=(chorion.x - cutout.x0) / cutout.step_x,
        y=(chorion.y - cutout.y0) / cutout.step_y,
        half_a=chorion.half_a / cutout.step_x,
        half_b=chorion.half_b / cutout.step_x,
    )
    return moved.fill((cutout.flat.shape[0], cutout.flat.shape[1]), factor=factor)


def _enlarge(mask: Mask, cutout: _Cutout) -> Mask:
    """Scale a mask of a cut-out up to frame pixels, with a smooth outline."""
    soft = cv2.resize(
        cv2.GaussianBlur(mask.astype(np.float32), (0, 0), 0.7, borderType=cv2.BORDER_REPLICATE),
        (cutout.width, cutout.height),
        interpolation=cv2.INTER_LINEAR,
    )
    return np.asarray(soft > 0.5, dtype=np.bool_)


def _bring_prior(earlier: Earlier, cutout: _Cutout) -> Mask:
    """The earlier mask, displaced with the embryo, in a cut-out's pixels."""
    shape, mask, moved = cutout.flat.shape, earlier.mask, earlier.moved
    sx, sy = cutout.width / shape[1], cutout.height / shape[0]
    transform = np.array(
        [
            [sx, 0, cutout.left - moved[0] - mask.left + (sx - 1) / 2],
            [0, sy, cutout.top - moved[1] - mask.top + (sy - 1) / 2],
        ]
    )
    brought = cv2.warpAffine(
        mask.crop.astype(np.float32),
        transform,
        (shape[1], shape[0]),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
    )
    return np.asarray(brought > 0.5, dtype=np.bool_)


def _find_outline(
    cutout: _Cutout, *, domain: Mask, sample: Mask, settings: ClassicalSegmenterSettings, earlier: Earlier | None
) -> Outline | None:
    """Outline in a cut-out; when the area jumps, the earlier mask is tried and what follows edges better is kept.

    A dying embryo may change for good, so the prior does not win by itself.
    """
    find = partial(
        find_outline, cutout.flat, domain=domain, sample=sample, um_per_px=cutout.um_per_px, settings=settings
    )
    found = find()
    if earlier is None or earlier.mask.target != "body" or not earlier.mask.crop.any():
        return found
    prior = _bring_prior(earlier, cutout)
    before, now = int(prior.sum()), int(found.mask.sum()) if found is not None else 0
    if before == 0 or abs(now - before) <= settings.jump_share * before:
        return found
    held = find(prior=prior)
    return held if held is not None and (found is None or held.edge >= found.edge - 0.05) else found


def _find_in_chorion(
    picture: FramePicture, chorion: Chorion, *, settings: ClassicalSegmenterSettings, earlier: Earlier | None
) -> FoundMask:
    work = picture.work
    um_per_px = picture.um_per_px
    if um_per_px is None:
        um_per_px = settings.chorion_radius_um / (chorion.radius * work.scale_x)
    x0, y0, x1, y1 = chorion.box()
    corners = (x0 - 1) * work.scale_x, (y0 - 1) * work.scale_y, (x1 + 2) * work.scale_x, (y1 + 2) * work.scale_y
    cutout = _cut(picture, corners, um_per_px, settings.outline_um_per_px)
    domain = _fill_chorion(cutout, chorion, factor=settings.domain_share)
    if chorion.visible >= settings.chorion_visible_min:
        sample = domain & ~_fill_chorion(cutout, chorion, factor=settings.fluid_share)
        if float(np.median(cutout.flat[sample])) < float(np.percentile(cutout.flat[domain], 80)) - 0.06:
            # A grown embryo lies along the rim: then the fluid is the bright part of the whole inside.
            sample = domain & (cutout.flat > np.percentile(cutout.flat[domain], 50))
        found = _find_outline(cutout, domain=domain, sample=sample, settings=settings, earlier=earlier)
        if found is not None and found.complete >= settings.body_complete_min:
            share = float(found.mask.sum()) / max(1, int(domain.sum()))
            if settings.body_share_min <= share <= settings.body_share_max:
                return FoundMask(_enlarge(found.mask, cutout), cutout.top, cutout.left, "body", found.edge)
    whole = _fill_chorion(cutout, chorion)
    return FoundMask(_enlarge(whole, cutout), cutout.top, cutout.left, "chorion", chorion.support)


def _find_in_open(
    picture: FramePicture, box: Box, *, settings: ClassicalSegmenterSettings, earlier: Earlier | None
) -> FoundMask:
    px = scale_box(box, picture.shape)
    um_per_px = picture.um_per_px
    if um_per_px is None:
        um_per_px = settings.body_extent_um / max(1.0, px[2] - px[0], px[3] - px[1])
    margin = settings.margin_um / um_per_px
    corners = (px[0] - margin, px[1] - margin, px[2] + margin, px[3] + margin)
    cutout = _cut(picture, corners, um_per_px, settings.outline_um_per_px)
    shape = cutout.flat.shape
    lit = cv2.warpAffine(
        picture.work.lit.astype(np.uint8),
        cutout.transform,
        (shape[1], shape[0]),
        flags=cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REPLICATE,
    ).astype(np.bool_)
    for chorion in picture.chorions:
        lit &= ~_fill_chorion(cutout, chorion, factor=1.1)
    sample = lit.copy()
    sx, sy = shape[1] / cutout.width, shape[0] / cutout.height
    sample[
        max(0, int((px[1] - cutout.top) * sy)) : int(np.ceil((px[3] - cutout.top) * sy)),
        max(0, int((px[0] - cutout.left) * sx)) : int(np.ceil((px[2] - cutout.left) * sx)),
    ] = False
    flat = level_water(
        cutout.flat,
        lit=lit,
        close_px=to_px(settings.close_um, cutout.um_per_px, least=3),
        shade_px=settings.shade_um / cutout.um_per_px,
        edge_floor=settings.edge_floor,
        edge_sigma=settings.edge_sigma,
    )
    found = _find_outline(replace(cutout, flat=flat), domain=lit, sample=sample, settings=settings, earlier=earlier)
    if found is None:
        return FoundMask(np.zeros((cutout.height, cutout.width), np.bool_), cutout.top, cutout.left, "body", 0.0)
    return FoundMask(_enlarge(found.mask, cutout), cutout.top, cutout.left, "body", found.edge)
