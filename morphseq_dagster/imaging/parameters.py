"""Parameters of the way from raw planes to one picture: focus, tiles, canvas."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from morphseq_dagster.parameters import Parameters

OrientationRule = Literal["auto", "horizontal", "vertical"]
CanvasRule = Literal["well", "mosaic"]


class MatchSettings(Parameters):
    """How tiles are matched."""

    search_fraction: float = Field(default=0.10, gt=0, lt=1)
    """Largest deviation from the expected step in either direction, as a share of the tile's extent along the row or
    column of tiles; 0.1 allows for a stage that was set up by hand."""
    least_ncc: float = Field(default=0.30, ge=-1, le=1)
    """Correlation on the implied overlap below which a shift is not believed; on real overlapping tiles right shifts
    reach 0.94 and wrong ones at most 0.06. Measured."""


class FocusSettings(Parameters):
    """Parameters of the way from raw planes to one picture."""

    low_percentile: float = Field(default=0.1, ge=0, lt=100)
    """Percentile of a frame's grey values that becomes black (spec, science 3.2 step 2)."""
    high_percentile: float = Field(default=99.9, gt=0, le=100)
    """Percentile of a frame's grey values that becomes white (spec, science 3.2 step 2)."""
    focus_feature_um: float = Field(default=3.0, gt=0)
    """Detail that tells focus, in um; sets the filter size (spec, science 3.2 step 3)."""
    score_sigma_px: float = Field(default=1.5, ge=0)
    """Averaging of the focus score; 1.5 is a window of about 9 px, three sigmas to each side (spec, science 11.3)."""
    index_median_px: int = Field(default=11, ge=1)
    """Side of the median over the map of plane numbers, odd; 1 switches it off and saves reading planes twice."""
    tile_overlap: float = Field(default=0.30, gt=0, lt=1)
    """Nominal overlap of neighbouring tiles (spec, science 3.2, real geometry)."""
    orientation: OrientationRule = "auto"
    """How tiles adjoin; `auto` follows the year in the experiment's name (spec, science 3.5)."""
    canvas: CanvasRule = "well"
    """Size of the stitched picture: the lab's size of a well, or the whole nominal mosaic (spec, science 3.5)."""
    match: MatchSettings = MatchSettings()
    """How tile offsets are searched and believed."""
    tiles_per_well: int | None = Field(default=None, ge=1)
    """Expected tiles; without it the most frequent count of the experiment."""
    channel: str | None = None
    """Channel token of the file names to use, such as CH1; needed only when there are several."""
