"""Parameters of the classical segmenter with their defaults and sources.

"Measured" refers to a series of ten embryos in chorions at 3.25 um/px and to rendered plates with known masks.
"""

from __future__ import annotations

from pydantic import Field

from morphseq_dagster.detection.parameters import ClassicalDetectorSettings
from morphseq_dagster.parameters import Parameters


class ClassicalSegmenterSettings(Parameters):
    """Thresholds of the classical segmenter; lengths in um."""

    detector: ClassicalDetectorSettings = ClassicalDetectorSettings()
    """How chorions are found again in each frame; keep it equal to `gdino_raw.classical`."""

    outline_um_per_px: float = Field(default=4.0, gt=0)
    """Pixel size at which outlines are found (never magnified)."""
    chorion_radius_um: float = Field(default=620.0, gt=0)
    """Assumed radius of a chorion when the pixel size is unknown; gives the scale. Measured: 560-680 um."""
    body_extent_um: float = Field(default=1800.0, gt=0)
    """Assumed longest side of a body's box without chorion when the pixel size is unknown."""
    domain_share: float = Field(default=0.93, gt=0, le=1)
    """Share of the chorion's half axes within which the body is looked for (the rim itself is left out)."""
    fluid_share: float = Field(default=0.7, gt=0, lt=1)
    """Inner limit of the ring, as a share of the half axes, in which brightness and noise of the fluid are taken."""
    shade_um: float = Field(default=120.0, gt=0)
    """Standard deviation of the Gaussian that carries the water's brightness beneath a body without chorion."""
    margin_um: float = Field(default=150.0, gt=0)
    """Margin around a box without chorion."""

    dark_sigma: float = 4.0
    dark_floor: float = 0.045
    edge_sigma: float = 5.0
    edge_floor: float = 0.008
    """Darkness and gradient (shares of the background, per pixel) that mark the body, in robust standard
    deviations of the fluid and as least values."""
    speck_um: float = 45.0
    """Marked specks smaller than a disc of this diameter are dropped."""
    close_um: float = 70.0
    open_um: float = 44.0
    band_um: float = 24.0
    """Closing, opening, and width of the band in which the outline is moved to half the depth of the local rim."""
    smooth_um: float = 6.0
    """Standard deviation of the Gaussian that smooths the outline."""
    plain_depth: float = 0.02
    """Holes no darker than this and smooth are background (between body and tail)."""

    yolk_area_max_um2: float = Field(default=380_000.0, gt=0)
    """Disc of 0.7 mm, the yolk's diameter (Kimmel et al. 1995); larger holes are more readily background."""
    piece_share: float = Field(default=0.1, gt=0, le=1)
    join_um: float = 160.0
    """Pieces of at least this share of the largest one, at most this far apart, are one body."""
    prune_um: float = 28.0
    """Opening that removes specks from the finished outline."""

    body_share_min: float = Field(default=0.06, ge=0, lt=1)
    body_share_max: float = Field(default=0.97, gt=0, le=1)
    """Area of a body as a share of its domain; outside these limits only the chorion counts as found."""
    body_complete_min: float = Field(default=0.8, ge=0, le=1)
    """Least share of the darkness in a chorion that a body must cover, else the chorion is the mask."""
    chorion_visible_min: float = Field(default=0.5, ge=0, le=1)
    """Below this share of the chorion in the frame the body is not told from the chorion."""
    jump_share: float = Field(default=0.3, gt=0)
    """Change of area between frames above which the previous mask is tried as a prior. Measured: 0.7-1.7 %
    between frames of a healthy embryo."""
    prior_margin_um: float = Field(default=60.0, gt=0)
    """How far an outline may move from its prior."""
