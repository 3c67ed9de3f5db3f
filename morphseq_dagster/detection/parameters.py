"""Parameters of the detectors with their defaults and sources.

"Measured" refers to 18 frames of ten embryos in chorions at 3.25 um/px (the series of the
tests), 38 wells of one embryo at about 9.5 um/px, and rendered embryos without a chorion.
"""

from __future__ import annotations

from pydantic import Field

from morphseq_dagster.parameters import Parameters


class GroundingDinoSettings(Parameters):
    """What GroundingDINO looks for, and its thresholds."""

    prompt: str = "individual embryo"
    """What to look for (spec, orchestration 3.1)."""
    box_threshold: float = Field(default=0.35, ge=0, le=1)
    """Least box score (spec, orchestration 3.1)."""
    text_threshold: float = Field(default=0.25, ge=0, le=1)
    """Least text score (spec, orchestration 3.1)."""


class ClassicalDetectorSettings(Parameters):
    """Thresholds of the classical detector; lengths in um unless the name says otherwise."""

    target_um_per_px: float = Field(default=12.0, gt=0)
    """Pixel size of the work picture; a chorion then has a radius of about 50 px. Measured."""
    longest_side_px: int = Field(default=512, ge=64)
    """Longest side of the work picture when the pixel size is unknown."""
    dark_share: float = Field(default=0.5, gt=0, lt=1)
    """Pixels below this share of the typical brightness at the frame's border are well wall."""
    wall_margin_px: int = Field(default=12, ge=0)
    """Width of the wall's shadow that is ignored, in work pixels (12 px are about 150 um)."""

    chorion_radius_min_um: float = Field(default=450.0, gt=0)
    chorion_radius_max_um: float = Field(default=750.0, gt=0)
    """Physical prior: zebrafish chorions measure about 1.0-1.4 mm across. Measured: 560-680 um."""
    chorion_radius_min_share: float = Field(default=0.2, gt=0, lt=1)
    chorion_radius_max_share: float = Field(default=0.4, gt=0, lt=1)
    """Without a pixel size: radius as a share of the frame's longest side, one embryo per frame."""
    hough_grey: int = 200
    hough_dp: float = 1.5
    hough_min_distance: float = 1.5
    hough_edge: float = 120.0
    hough_votes: float = 35.0
    """Hough transform: grey level of the background, accumulator step, least distance of centres in least
    radii, Canny threshold, votes. Measured."""
    directions: int = Field(default=180, ge=36)
    rim_tolerance_px: int = Field(default=1, ge=1)
    rim_mad: float = 10.0
    rim_support_min: float = Field(default=0.45, ge=0, le=1)
    rim_support_sure: float = Field(default=0.85, ge=0, le=1)
    """Rim: directions looked at, tolerance of its place in work pixels, gradient above the noise in median
    absolute deviations, least support, and support from which a circle is a chorion without further question.
    Measured: chorions have 0.94-1.0; circles at random places 0.57 in one case of a hundred."""
    rim_whole: float = Field(default=0.9, ge=0, le=1)
    """Support from which a rim counts as whole: of two whole circles in one place the larger is taken."""
    rim_visible_min: float = Field(default=0.3, ge=0, le=1)
    """Least share of a rim that lies in the picture."""
    ellipse_min_visible: float = Field(default=0.7, ge=0, le=1)
    """Least share of a rim in the picture for an ellipse to be fitted instead of a circle."""
    content_min: float = Field(default=0.1, ge=0, le=1)
    """Least share of a chorion's inside that is no plain background: an empty circle is none."""
    chorion_taken: float = Field(default=1.12, ge=1)
    """Bodies are looked for outside the chorions scaled by this."""
    overlap_max: float = Field(default=0.3, ge=0, le=1)
    """Largest overlap of two chorions (intersection over union); of more the better one stays."""

    body_edge_mad: float = 6.0
    body_seed_mad: float = 15.0
    """Hysteresis on the gradient: edge and seed level above the noise. Measured."""
    body_edge_floor: float = Field(default=0.012, ge=0)
    body_seed_floor: float = Field(default=0.03, ge=0)
    """Least gradients (share of the background per work pixel) in pictures with very little noise."""
    body_darkness_min: float = Field(default=0.12, gt=0, lt=1)
    """Darkness below the background, as a share of it, that marks a body."""
    shade_px: float = Field(default=12.0, gt=0)
    """Standard deviation of the Gaussian that carries the water's brightness beneath bodies, in work pixels."""
    plain_depth: float = Field(default=0.03, gt=0, lt=1)
    plain_gradient: float = Field(default=0.006, ge=0)
    """What passes for plain background: depth below it and gradient."""
    body_close_px: int = Field(default=7, ge=3)
    body_open_px: int = Field(default=7, ge=3)
    """Sides of the closing and the opening that round a body off, in work pixels."""
    body_area_min_um2: float = Field(default=150_000.0, gt=0)
    """Least area of a body; below the smallest of the stage reference, 0.40 mm^2, for views from the front."""
    body_beside_chorion_min_um2: float = Field(default=300_000.0, gt=0)
    """Least area of a body in a picture that shows chorions too: it must have hatched, hence be grown."""
    body_area_max_um2: float = Field(default=2_500_000.0, gt=0)
    """Physical prior: the stage reference of surface areas runs from 0.40 to 1.29 mm^2 (spec, stage_ref_df),
    widened for views from the front and for a filled outline."""
    yolk_area_max_um2: float = Field(default=380_000.0, gt=0)
    """Disc of 0.7 mm, the yolk's diameter (Kimmel et al. 1995)."""
    body_area_min_share: float = Field(default=0.004, gt=0, lt=1)
    body_area_max_share: float = Field(default=0.6, gt=0, lt=1)
    """Without a pixel size: least and largest area of a body as shares of the frame."""
