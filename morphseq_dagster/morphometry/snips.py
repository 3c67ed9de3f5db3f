"""Aligned small pictures of single embryos ("snips"), the input of the latent model: spec 5.5 as one affine warp.

Where this departs from upstream, on purpose: the full frame is sampled once instead of scaled, rotated and cropped in
turn; shrinking averages areas; landscape pictures are not mirrored; noise is seeded.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray
from skimage.exposure import equalize_adapthist

from morphseq_dagster.detection.regions import fill_outlines
from morphseq_dagster.errors import PermanentError
from morphseq_dagster.morphometry.background import (
    BackgroundStatistics,
    Polarity,
    as_dark_background,
    background_noise,
)
from morphseq_dagster.morphometry.cleaning import clean_mask
from morphseq_dagster.morphometry.morphology import Box, closing, occupied_box, require_mask
from morphseq_dagster.morphometry.orientation import HeadRule, Orientation, orient, pick_yolk
from morphseq_dagster.morphometry.parameters import SnipSettings
from morphseq_dagster.morphometry.shape import check_pixel_size

DEFAULT_SNIPS = SnipSettings()


@dataclass(frozen=True, eq=False)
class Snip:
    """One aligned embryo, head side up.

    Attributes
    ----------
    blended
        `(rows, cols)` uint8: embryo bright, surroundings replaced by noise.
    uncropped
        `(rows, cols)` uint8: the same without blending.
    mask
        `(rows, cols)` uint8, 0 or 255.
    out_of_frame
        Whether less than `kept_share_min` of the mask lies inside the snip.
    problem
        What went wrong without preventing the snip (cleaning that failed), or None.
    """

    blended: NDArray[np.uint8]
    uncropped: NDArray[np.uint8]
    mask: NDArray[np.uint8]
    yolk: NDArray[np.uint8] | None
    out_of_frame: bool
    kept_share: float
    angle_rad: float
    head_rule: HeadRule
    scale_um_per_px: float
    cleaning: tuple[str, ...]
    problem: str | None


@dataclass(frozen=True)
class NoSnip:
    """Why an embryo has no snip.

    Attributes
    ----------
    reason
        "unknown pixel size" or "empty mask".
    out_of_frame
        True for an empty mask (spec 5.5 step 8), None where it cannot be known.
    """

    reason: str
    out_of_frame: bool | None


def extract_snip(
    image: NDArray[np.uint8],
    *,
    mask: NDArray[np.bool_],
    um_per_px: float | None,
    polarity: Polarity,
    background: BackgroundStatistics,
    snip_id: str,
    yolk: NDArray[np.bool_] | None = None,
    settings: SnipSettings = DEFAULT_SNIPS,
) -> Snip | NoSnip:
    """Cut one embryo out of its frame: upright, head side up, scaled, equalised, blended into noise.

    Parameters
    ----------
    image
        `(H, W)` uint8 grey frame.
    mask
        `(H, W)` bool body mask.
    um_per_px
        Pixel size of the frame; None gives no snip.
    polarity
        Of `image`; "bright_background" is inverted, since snips show bright embryos on dark.
    background
        Grey level of the noise, of the dark-background picture.
    snip_id
        Seeds the noise.
    yolk
        `(H, W)` bool of all yolks, or None.

    Raises
    ------
    PermanentError
        For arrays of the wrong type or shape, or an impossible pixel size.
    """
    require_mask(mask, where=f"mask of {snip_id}")
    check_pixel_size(um_per_px)
    if image.shape != mask.shape:
        raise PermanentError(
            expected=f"a mask of the picture's shape {image.shape}",
            found=f"shape {mask.shape}",
            where=f"mask of {snip_id}",
            remedy="export the mask at the picture's size",
        )
    found = occupied_box(mask)
    if found is None:
        return NoSnip("empty mask", out_of_frame=True)
    if um_per_px is None:
        return NoSnip("unknown pixel size", out_of_frame=None)

    cleaned = clean_mask(mask, settings=settings.cleaning)
    found = occupied_box(cleaned.mask) or found
    # From here on coordinates are relative to `box`, which may reach beyond the frame.
    pad = settings.closing_radius_px + 2
    box = Box(found.row0 - pad, found.col0 - pad, found.row1 + pad, found.col1 + pad)
    body = _closed_in(cleaned.mask, box=box, radius_px=settings.closing_radius_px)
    piece = pick_yolk(yolk, mask=mask, contact_min_px=settings.yolk_contact_min_px)
    own_yolk = None if piece is None else _closed_in(piece, box=box, radius_px=settings.closing_radius_px)
    lying = orient(body, yolk=own_yolk)

    factor = settings.scale_um_per_px / um_per_px
    rows, cols = np.nonzero(body)
    down, right = lying.upright(rows.astype(np.float64), cols.astype(np.float64))
    middle = (float(down.min() + down.max()) / 2.0, float(right.min() + right.max()) / 2.0)
    inside = (np.abs(down - middle[0]) <= settings.rows * factor / 2.0) & (
        np.abs(right - middle[1]) <= settings.cols * factor / 2.0
    )
    kept = float(np.count_nonzero(inside) / inside.size)

    warp = _Warp(lying, middle=middle, factor=factor, rows=settings.rows, cols=settings.cols)
    snip_mask = fill_outlines(warp.apply(body.astype(np.float32)) >= 0.5)
    snip_yolk = None if own_yolk is None else fill_outlines(warp.apply(own_yolk.astype(np.float32)) >= 0.5)
    grey = warp.moved(-box.row0, -box.col0).apply_picture(image, polarity=polarity)
    equalised = equalize_adapthist(
        np.rint(grey).astype(np.uint8), clip_limit=settings.clahe_clip, nbins=settings.clahe_bins
    )
    equalised = (255.0 * equalised).astype(np.float32)
    weight = cv2.GaussianBlur(
        snip_mask.astype(np.float32),
        (0, 0),
        settings.taper_um / settings.scale_um_per_px,
        borderType=cv2.BORDER_REPLICATE,
    )
    noise = background_noise((settings.rows, settings.cols), statistics=background, snip_id=snip_id)
    return Snip(
        blended=_to_uint8(weight * equalised + (1.0 - weight) * noise),
        uncropped=_to_uint8(equalised),
        mask=snip_mask.astype(np.uint8) * np.uint8(255),
        yolk=None if snip_yolk is None else snip_yolk.astype(np.uint8) * np.uint8(255),
        out_of_frame=kept < settings.kept_share_min,
        kept_share=kept,
        angle_rad=lying.angle_rad,
        head_rule=lying.head_rule,
        scale_um_per_px=settings.scale_um_per_px,
        cleaning=cleaned.actions,
        problem=None if cleaned.problem is None else f"mask not cleaned: {cleaned.problem}",
    )


@dataclass(frozen=True)
class _Warp:
    """Map from snip pixels to source pixels: source = origin + factor * rotation * (snip - centre)."""

    orientation: Orientation
    middle: tuple[float, float]
    factor: float
    rows: int
    cols: int
    shift: tuple[float, float] = (0.0, 0.0)

    def moved(self, rows: float, cols: float) -> _Warp:
        """Return the same warp for a source whose pixel (0, 0) lies at (rows, cols) of this source."""
        return replace(self, shift=(rows, cols))

    def place(self, down: float, right: float) -> tuple[float, float]:
        """Row and column in the source of a point of the upright frame (source px about the centroid)."""
        cos, sin = math.cos(self.orientation.angle_rad), math.sin(self.orientation.angle_rad)
        row, col = self.orientation.row0 - self.shift[0], self.orientation.col0 - self.shift[1]
        return row + down * cos - right * sin, col + down * sin + right * cos

    def apply(self, source: NDArray[np.float32]) -> NDArray[np.float32]:
        """Sample `source` `(H, W)`; 0 beyond its border. Shrinking averages the area of every snip pixel."""
        # Sampling at least as densely as the source and averaging blocks avoids aliasing at any angle.
        dense = min(max(1, math.ceil(self.factor - 1e-9)), 16)
        step = self.factor / dense
        cos, sin = math.cos(self.orientation.angle_rad), math.sin(self.orientation.angle_rad)
        down = self.middle[0] - step * (self.rows * dense - 1) / 2.0
        right = self.middle[1] - step * (self.cols * dense - 1) / 2.0
        row0, col0 = self.place(down, right)
        matrix = np.array([[step * cos, step * sin, col0], [-step * sin, step * cos, row0]])
        sampled = cv2.warpAffine(
            source,
            matrix,
            (self.cols * dense, self.rows * dense),
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_CONSTANT,
            borderValue=(0.0,),
        )
        averaged = cv2.resize(sampled, (self.cols, self.rows), interpolation=cv2.INTER_AREA)
        return np.asarray(averaged, dtype=np.float32)

    def apply_picture(self, image: NDArray[np.uint8], *, polarity: Polarity) -> NDArray[np.float32]:
        """Sample a frame as a dark-background picture; beyond the frame it is black."""
        reach = self.factor * math.hypot(self.rows, self.cols) / 2.0 + 2.0
        row, col = self.place(*self.middle)
        height, width = image.shape
        row0, row1 = (min(max(round(row + s * reach), 0), height) for s in (-1, 1))
        col0, col1 = (min(max(round(col + s * reach), 0), width) for s in (-1, 1))
        part = as_dark_background(image[row0:row1, col0:col1], polarity=polarity)
        return self.moved(self.shift[0] + row0, self.shift[1] + col0).apply(part.astype(np.float32))


def _closed_in(mask: NDArray[np.bool_], *, box: Box, radius_px: int) -> NDArray[np.bool_]:
    """Close another mask of the same frame and cut it to `box`, padding with false beyond the frame."""
    height, width = mask.shape
    row0, row1 = max(box.row0, 0), min(box.row1, height)
    col0, col1 = max(box.col0, 0), min(box.col1, width)
    whole = np.zeros((box.row1 - box.row0, box.col1 - box.col0), dtype=np.bool_)
    whole[row0 - box.row0 : row1 - box.row0, col0 - box.col0 : col1 - box.col0] = mask[row0:row1, col0:col1]
    return closing(whole, radius_px=radius_px)


def _to_uint8(grey: NDArray[np.float32]) -> NDArray[np.uint8]:
    return np.clip(np.rint(grey), 0, 255).astype(np.uint8)
