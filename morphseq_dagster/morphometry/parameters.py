"""Parameters of mask cleaning, snips and viability."""

from __future__ import annotations

from pydantic import Field, model_validator

from morphseq_dagster.parameters import Parameters


class CleaningSettings(Parameters):
    """Numbers of the five steps; all defaults from spec 5.6, radii in pixels of the mask."""

    small_component_share: float = Field(default=0.10, ge=0, lt=1)
    """Pieces below this share of the area are dropped."""
    closing_radius_min_px: int = Field(default=5, ge=1)
    """Smallest radius of the disk that joins pieces."""
    closing_perimeter_divisor: float = Field(default=100.0, gt=0)
    """The first radius is the perimeter over this, if larger."""
    closing_rounds: int = Field(default=5, ge=0)
    """Closings tried until one piece is left."""
    closing_step_px: int = Field(default=5, ge=0)
    """Growth of the radius per round."""
    closing_radius_max_px: int = Field(default=50, ge=1)
    """Largest radius."""
    opening_below_solidity: float = Field(default=0.6, ge=0, le=1)
    """Only masks less solid than this are opened, which cuts threads."""
    opening_radius_min_px: int = Field(default=3, ge=1)
    """Smallest radius of the opening."""
    opening_perimeter_divisor: float = Field(default=150.0, gt=0)
    """The radius is the perimeter over this, if larger."""


class SnipSettings(Parameters):
    """Numbers of the snip recipe; latents depend strongly on them (spec, finding 11)."""

    scale_um_per_px: float = Field(default=6.5, gt=0)
    """Pixel size of the snip, um; 6.5 in the pipeline step, nearest to the stored latents (spec 5.5)."""
    rows: int = Field(default=576, ge=16)
    """Height, px (spec 5.5)."""
    cols: int = Field(default=256, ge=16)
    """Width, px (spec 5.5)."""
    taper_um: float = Field(default=50.0, gt=0)
    """Sigma of the blend into the background, um; 50 in upstream's step, 20 fits the stored latents best."""
    closing_radius_px: int = Field(default=15, ge=0)
    """Disk that closes the masks, frame px (spec 5.5 step 3)."""
    yolk_contact_min_px: int = Field(default=10, ge=1)
    """Pixels that a yolk must share with the embryo (spec 5.5 step 3)."""
    kept_share_min: float = Field(default=0.98, ge=0, le=1)
    """Below this share of the mask inside the snip it counts as out of frame (spec 5.5 step 8)."""
    clahe_clip: float = Field(default=0.01, gt=0, le=1)
    """Clip limit of scikit-image's CLAHE, whose kernel is an eighth of each side (spec 5.5 step 9)."""
    clahe_bins: int = Field(default=256, ge=2)
    """Grey bins of the CLAHE (spec 5.5 step 9)."""
    cleaning: CleaningSettings = CleaningSettings()
    """How the mask is cleaned first."""


class ViabilitySettings(Parameters):
    """Numbers of the measure.

    Where nothing else is said they were set on the one death in the EmbryoNet series (10 embryos, 18 frames
    40 min apart): healthy bodies transmit 0.58-0.76 and the dead one 0.24-0.26.
    """

    texture_um: float = Field(default=10.0, gt=0)
    """Sigma of the window in which texture is measured, um; it holds a few cells."""
    texture_share_of_body: float = Field(default=0.014, gt=0)
    """The same as a share of the square root of the body's area, used when the pixel size is unknown."""
    background_percentile: float = Field(default=90.0, gt=0, le=100)
    """Of the grey levels within three body boxes: the lamp's brightness there."""
    dark_alive: float = Field(default=0.80, gt=0)
    """Transmission over the embryo's own baseline above which it is not darker."""
    dark_dead: float = Field(default=0.50, ge=0)
    """Transmission over the baseline below which it is opaque; the dead embryo fell to 0.36."""
    texture_alive: float = Field(default=0.60, gt=0)
    """Texture over the baseline above which none is lost; defocus and pose change it in healthy embryos."""
    texture_dead: float = Field(default=0.30, ge=0)
    """Texture over the baseline below which it is lost; the dead embryo fell to 0.2."""
    texture_weight: float = Field(default=0.5, ge=0, le=1)
    """Share of the evidence that needs lost texture beside darkness, so that a shadow leaves this share."""
    opaque_dead: float = Field(default=0.28, ge=0)
    """Transmission below which a body is opaque whatever its history, if it is flat as well."""
    opaque_alive: float = Field(default=0.40, gt=0)
    """Transmission above which the absolute limit is silent."""
    flat_dead: float = Field(default=0.006, ge=0)
    """Texture below which an opaque body is dead whatever its history; the dead embryo has 0.005."""
    flat_alive: float = Field(default=0.012, gt=0)
    """Texture above which the absolute limit is silent. Darkness alone proves nothing: the KimmelNET pictures
    are stretched so that living bodies transmit 0.01-0.6, but with a texture of 0.015 or more when dark."""
    baseline_h: float = Field(default=12.0, gt=0)
    """Hours of own earlier living frames whose median is the baseline; development is slower than that."""
    living_min: float = Field(default=0.9, ge=0, le=1)
    """Fraction alive from which on a frame may serve as baseline; the limit of `dead_flag` (spec 5.2)."""

    @model_validator(mode="after")
    def _ordered(self) -> ViabilitySettings:
        for limit in ("dark", "texture", "opaque", "flat"):
            if not getattr(self, f"{limit}_dead") < getattr(self, f"{limit}_alive"):
                raise ValueError(f"{limit}_dead must lie below {limit}_alive")
        return self
