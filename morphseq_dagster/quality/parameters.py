"""Limits of flags, death, surface area, stage and the choice of rows."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from morphseq_dagster.parameters import Parameters


class MaskFlagSettings(Parameters):
    """Limits of the mask flags; all defaults from spec 3.4."""

    variance_share_max: float = Field(default=0.20, gt=0)
    """Relative difference of an area from the mean of its neighbours beyond which it is flagged."""
    variance_window_frames: int = Field(default=2, ge=1)
    """Neighbouring frames of the same embryo on each side."""
    edge_margin_px: int = Field(default=2, ge=1)
    """A mask pixel nearer to the border than this many pixels touches it."""
    large_share_min: float = Field(default=0.15, gt=0, le=1)
    """A mask covering more of the frame is large."""
    small_share_max: float = Field(default=0.001, ge=0, le=1)
    """A mask covering less of the frame is small."""
    overlap_iou_max: float = Field(default=0.1, ge=0, le=1)
    """Two masks that overlap more (intersection over union) are flagged."""
    expected_embryos_min: int = Field(default=1, ge=0)
    """Fewer embryos with a mask in a frame are a failed detection."""


class EmbryoFlagSettings(Parameters):
    """Limits of the embryo flags; all defaults from spec 5.2."""

    border_um: float = Field(default=150.0, gt=0)
    """Width of the border strip that an embryo should not touch, um; rounded up to whole pixels."""
    inner_share_min: float = Field(default=0.98, gt=0, le=1)
    """At most this share of the area inside the strip sets `frame_flag`."""
    reach_borders: float = Field(default=2.0, gt=0)
    """Focus and bubble masks nearer than this many border widths set their flags (300 um)."""
    dead_below: float = Field(default=0.9, gt=0, le=1)
    """A smaller fraction alive sets `dead_flag`."""


class DeathSettings(Parameters):
    """Limits of death over time."""

    method: Literal["isotonic", "savgol"] = "isotonic"
    """"isotonic": in hours, robust (spec 11.6); "savgol": upstream's rule in frames (spec 6.2)."""
    persistence_share: float = Field(default=0.80, gt=0, le=1)
    """Share of the later frames that must be dead for a death to count (spec 6.2)."""
    lead_h: float = Field(default=4.0, ge=0)
    """Hours before the inflection from which frames are flagged; 4.0 upstream, 2.0 in older versions."""
    rows_min: int = Field(default=3, ge=2)
    """Frames with a known fraction that an embryo needs (spec 6.2)."""
    dead_below: float = Field(default=0.9, gt=0, le=1)
    """Fraction alive below which a frame is dead (spec 5.2)."""
    decline_per_h: float = Field(default=0.10, gt=0)
    """isotonic: fall per hour that starts a death; upstream's 0.05 per frame at its half-hour frames."""
    decline_span_h: float = Field(default=0.5, gt=0)
    """isotonic: hours over which that fall is measured where frames are closer together."""
    dead_rows_min: int = Field(default=2, ge=1)
    """isotonic: dead frames needed; one frame at the end confirms nothing (spec 6.2)."""
    decline_per_frame: float = Field(default=0.05, gt=0)
    """savgol: fall per frame number that starts a death (spec 6.2)."""
    smoothing_window_frames: int = Field(default=5, ge=3)
    """savgol: window of the Savitzky-Golay filter (spec 6.2)."""
    smoothing_order: int = Field(default=2, ge=1)
    """savgol: order of the filter (spec 6.2)."""


class SurfaceAreaSettings(Parameters):
    """Limits of the surface-area flag."""

    k_upper: float = Field(default=1.4, gt=0)
    """Above this multiple of the 95th percentile: flagged. 1.4 in the newest configuration, 1.2 before."""
    k_lower: float = Field(default=0.7, gt=0)
    """Below this multiple of the 5th percentile: flagged. 0.7 in the newest configuration (spec 11.10); the
    0.9 before rejected healthy embryos reared cold (spec, finding 9)."""


class PredictedStageSettings(Parameters):
    """Stage from start age, time and temperature."""

    rate_per_c: float = 0.055
    """Stage hours per hour and degree Celsius (spec 5.2; Kimmel et al. 1995)."""
    rate_at_zero_c: float = -0.57
    """Stage hours per hour at 0 degrees Celsius (spec 5.2)."""


class InferredStageSettings(Parameters):
    """Stage from the surface area."""

    use_toy_reference: bool = False
    """Infer stages even from the public one-embryo reference; for format tests only (spec, finding 1)."""
    cohort_width_h: float = Field(default=5.0, gt=0)
    """Embryos whose first stages round to the same multiple form a cohort; 2.5 in older versions (spec 6.6)."""
    area_percentile: float = Field(default=95.0, gt=0, le=100)
    """Percentile of reference areas per cohort and hour (spec 6.6)."""


PolicyName = Literal["newest", "with_frame_and_yolk", "build03_legacy", "build04_legacy"]


class UseEmbryoSettings(Parameters):
    """Which rule decides that a row is usable."""

    policy: PolicyName = "newest"
    """"newest" and "with_frame_and_yolk" (commit 77119fa1) are upstream's Build04, "build03_legacy" and
    "build04_legacy" the rules before SAM2 (spec 6.4)."""
    ignore_sa_outlier_alone: bool = False
    """Let a row pass whose only raised flag is the surface area: the maintainers' interim rule (spec, finding 9)."""
