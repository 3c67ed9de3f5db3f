"""The embedded detector: chorions by circles, otherwise bodies by closed outlines; no weights, no GPU.

The two routes are in `chorions` and `bodies`; here are the choice between them and the confidence.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from morphseq_dagster.backends import BackendIdentity
from morphseq_dagster.detection.backends import Box, Detection
from morphseq_dagster.detection.bodies import Body, find_bodies
from morphseq_dagster.detection.chorions import Chorion, find_chorions
from morphseq_dagster.detection.filtering import order_detections
from morphseq_dagster.detection.parameters import ClassicalDetectorSettings
from morphseq_dagster.detection.work_image import WorkPicture, prepare_work_picture

PHRASE = "individual embryo"
"""The prompt of the model backends (spec 3.1), so that documents of all backends read alike."""


@dataclass(frozen=True)
class SizeRange:
    """Lengths in work pixels that an embryo may have."""

    radius_min: float
    radius_max: float
    area_min_px: float
    area_max_px: float
    yolk_max_px: float


def derive_size_range(picture: WorkPicture, *, settings: ClassicalDetectorSettings) -> SizeRange:
    """Turn the physical priors into work pixels.

    Without a pixel size the fallback assumes one well with one embryo that fills a good part of the frame: the
    radius is 20-40 % of the longest side and the area 0.4-60 % of the frame.
    """
    if picture.um_per_px is not None:
        scale = picture.um_per_px
        return SizeRange(
            settings.chorion_radius_min_um / scale,
            settings.chorion_radius_max_um / scale,
            settings.body_area_min_um2 / scale**2,
            settings.body_area_max_um2 / scale**2,
            settings.yolk_area_max_um2 / scale**2,
        )
    height, width = picture.shape
    longest = max(height, width)
    return SizeRange(
        settings.chorion_radius_min_share * longest,
        settings.chorion_radius_max_share * longest,
        settings.body_area_min_share * height * width,
        settings.body_area_max_share * height * width,
        settings.body_area_max_share * height * width,
    )


def normalise_box(box: tuple[float, float, float, float], picture: WorkPicture) -> Box:
    """Work-pixel corners to normalised ones, clipped to the frame."""
    height, width = picture.shape
    x0, y0, x1, y1 = (
        float(np.clip(v / size, 0.0, 1.0)) for v, size in zip(box, (width, height, width, height), strict=True)
    )
    return x0, y0, x1, y1


def rate_chorion(chorion: Chorion) -> float:
    """Confidence of a chorion: squared rim support, less where the frame cuts it.

    Circles at random places reach a support of 0.57 in one case of a hundred (measured), real chorions exceed
    0.9; squared, the default limit of 0.45 lies at a support of 0.67.
    """
    return float(np.clip(chorion.support**2 * min(1.0, chorion.visible) ** 0.5, 0.0, 1.0))


def rate_body(body: Body) -> float:
    """Confidence of a body: closed outline, away from the well's wall, and darker than the background."""
    depth = min(1.0, max(0.0, body.darkness) / 0.05)
    solid = min(1.0, max(0.0, (body.solid - 0.3) / 0.4))
    return float(np.clip(body.edge**2 * body.free**2 * solid * depth, 0.0, 1.0))


@dataclass(frozen=True)
class ClassicalDetector:
    """Detector without a learned model; see the module docstring."""

    settings: ClassicalDetectorSettings = field(default_factory=ClassicalDetectorSettings)

    def prepare(self, image: NDArray[np.uint8], *, um_per_px: float | None) -> WorkPicture:
        """Work picture of a frame under this detector's settings."""
        return prepare_work_picture(
            image,
            um_per_px=um_per_px,
            target_um_per_px=self.settings.target_um_per_px,
            longest_side_px=self.settings.longest_side_px,
            dark_share=self.settings.dark_share,
            wall_margin_px=self.settings.wall_margin_px,
        )

    def find(self, picture: WorkPicture) -> tuple[tuple[Chorion, ...], tuple[Body, ...]]:
        """Chorions of the picture, and bodies in what is left of it.

        Well supported chorions stand; bodies are looked for beside them. A weakly supported circle may be the
        curve of a body without chorion: of such a circle and a body in the same place the better rated is kept,
        and the circle when the body fills it.
        """
        size = derive_size_range(picture, settings=self.settings)
        circles = find_chorions(picture, radius_min=size.radius_min, radius_max=size.radius_max, settings=self.settings)
        strong = [c for c in circles if c.support >= self.settings.rim_support_sure]
        area_min_px = size.area_min_px
        if strong:
            if picture.um_per_px is None:
                # Without a scale nothing tells debris from an embryo; beside a chorion the doubt goes against it.
                return tuple(strong), ()
            area_min_px = self.settings.body_beside_chorion_min_um2 / picture.um_per_px**2
        taken = np.zeros(picture.shape, dtype=np.bool_)
        for chorion in strong:
            taken |= chorion.fill(picture.shape, factor=self.settings.chorion_taken)
        bodies = list(
            find_bodies(
                picture,
                area_min_px=area_min_px,
                area_max_px=size.area_max_px,
                hole_px=size.yolk_max_px,
                settings=self.settings,
                taken=taken,
            )
        )
        chorions = list(strong)
        for weak in (c for c in circles if c.support < self.settings.rim_support_sure):
            inside = weak.fill(picture.shape)
            rivals = [b for b in bodies if np.count_nonzero(inside & b.mask) > 0.3 * min(b.area_px, inside.sum())]
            whole = any(np.count_nonzero(inside & b.mask) > 0.75 * np.count_nonzero(inside | b.mask) for b in rivals)
            if whole or all(rate_body(b) < rate_chorion(weak) for b in rivals):
                chorions.append(weak)
                bodies = [b for b in bodies if all(b is not rival for rival in rivals)]
        return tuple(chorions), tuple(bodies)

    def detect(self, image: NDArray[np.uint8], *, um_per_px: float | None) -> tuple[Detection, ...]:
        """Embryos of one frame, the most confident first, unfiltered; see `Detector.detect`.

        Raises
        ------
        PermanentError
            When `image` is not an (H, W) uint8 array.
        """
        picture = self.prepare(image, um_per_px=um_per_px)
        chorions, bodies = self.find(picture)
        found = [Detection(normalise_box(c.box(), picture), rate_chorion(c), PHRASE) for c in chorions]
        found += [Detection(normalise_box(b.box, picture), rate_body(b), PHRASE) for b in bodies]
        return order_detections(found)

    def identity(self) -> BackendIdentity:
        """Name and version; there are no weights."""
        return BackendIdentity(name="classical", version="1")
