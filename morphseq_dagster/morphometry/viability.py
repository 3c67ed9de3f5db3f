"""Classical viability measure: how opaque and textureless a body has become, from picture and mask alone.

A dying zebrafish embryo turns opaque: in transmitted light its body becomes dark and loses the fine texture of yolk,
cells and tissue within minutes. Both are compared with the same embryo's own earlier frames, so that stage, pigment,
pose and lamp do not matter; only an embryo that is black and flat from its first frame on is judged by absolute limits.
When an embryo died is decided in `morphseq_dagster.quality.death`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from morphseq_dagster.errors import PermanentError
from morphseq_dagster.morphometry.columns import require_columns
from morphseq_dagster.morphometry.morphology import erode, occupied_box, require_mask
from morphseq_dagster.morphometry.parameters import ViabilitySettings

DEFAULT_VIABILITY = ViabilitySettings()


@dataclass(frozen=True)
class BodyOptics:
    """Optical measurement of one body in one frame.

    Attributes
    ----------
    transmission
        Median grey of the body over the grey of the lit background beside it, 0..about 1; None when unknown.
    texture
        Median local standard deviation inside the body, as a share of the background grey; None when unknown.
    """

    transmission: float | None
    texture: float | None
    background: float | None
    problem: str | None


def measure_optics(
    image: NDArray[np.uint8],
    *,
    mask: NDArray[np.bool_],
    um_per_px: float | None,
    settings: ViabilitySettings = DEFAULT_VIABILITY,
) -> BodyOptics:
    """Measure darkness and texture of one body, on three body boxes around it.

    Parameters
    ----------
    image
        `(H, W)` uint8 grey, bright background.
    mask
        `(H, W)` bool of the body.
    um_per_px
        Pixel size; when None the texture window scales with the body.

    Raises
    ------
    PermanentError
        For a mask that is not `(H, W)` bool or not of the picture's shape.
    """
    require_mask(mask, where="viability")
    if image.shape != mask.shape or image.dtype != np.uint8:
        raise PermanentError(
            expected=f"a picture of shape {mask.shape} and dtype uint8",
            found=f"shape {image.shape}, dtype {image.dtype}",
            where="viability",
            remedy="give the 8-bit grey frame that the mask was drawn on",
        )
    box = occupied_box(mask)
    if box is None:
        return BodyOptics(None, None, None, "empty mask")
    height, width = box.row1 - box.row0, box.col1 - box.col0
    around = image[max(box.row0 - height, 0) : box.row1 + height, max(box.col0 - width, 0) : box.col1 + width]
    background = float(np.percentile(around, settings.background_percentile))
    if background <= 0.0:
        return BodyOptics(None, None, background, "black background")

    body = np.pad(mask[box.slices], 1)[1:-1, 1:-1]
    grey = image[box.slices].astype(np.float32)
    if um_per_px is None:
        sigma = settings.texture_share_of_body * math.sqrt(float(body.sum()))
    else:
        sigma = settings.texture_um / um_per_px
    sigma = max(sigma, 1.0)
    # A slight blur first, else the camera's noise counts as texture.
    smooth = cv2.GaussianBlur(grey, (0, 0), sigma / 3.0)
    mean = cv2.GaussianBlur(smooth, (0, 0), sigma)
    spread = np.sqrt(np.maximum(cv2.GaussianBlur(smooth * smooth, (0, 0), sigma) - mean * mean, 0.0))
    # The outline is the strongest edge of all; leave it out unless nothing else remains.
    inner = erode(np.pad(body, 1), radius_px=2.5 * sigma)[1:-1, 1:-1]
    if np.count_nonzero(inner) < 0.2 * np.count_nonzero(body):
        inner = body
    return BodyOptics(
        transmission=float(np.median(grey[inner])) / background,
        texture=float(np.median(spread[inner])) / background,
        background=background,
        problem=None,
    )


VIABILITY_INPUT = ("embryo_id", "time_s", "transmission", "texture")


def infer_viability(table: pd.DataFrame, *, settings: ViabilitySettings = DEFAULT_VIABILITY) -> pd.DataFrame:
    """Turn optical measurements over time into `fraction_alive`.

    Parameters
    ----------
    table
        Columns `embryo_id` (str), `time_s` (s), `transmission`, `texture` (see `BodyOptics`), any order, any
        index; missing numbers are allowed.

    Returns
    -------
    DataFrame
        Index of `table`; columns `fraction_alive` (float, 0..1, NaN = unknown) and `fraction_alive_reason`
        (str: empty, "not measured", "no time", or "first frame of the embryo, judged by opacity alone").

    Raises
    ------
    ContractError
        When columns are missing; all are named.
    """
    require_columns(table, VIABILITY_INPUT, where="table of optical measurements")
    alive = np.full(len(table), np.nan)
    reasons = np.full(len(table), "not measured", dtype=object)
    time_s = table["time_s"].to_numpy(dtype=np.float64, na_value=np.nan)
    transmission = table["transmission"].to_numpy(dtype=np.float64, na_value=np.nan)
    texture = table["texture"].to_numpy(dtype=np.float64, na_value=np.nan)
    measured = np.isfinite(transmission) & np.isfinite(texture)
    reasons[measured & ~np.isfinite(time_s)] = "no time"
    for positions in table.groupby("embryo_id", sort=True).indices.values():
        rows = positions[measured[positions] & np.isfinite(time_s[positions])]
        rows = rows[np.argsort(time_s[rows], kind="stable")]
        values = _series_alive(time_s[rows], transmission[rows], texture[rows], settings=settings)
        alive[rows] = values
        reasons[rows] = ""
        if rows.size:
            reasons[rows[0]] = "first frame of the embryo, judged by opacity alone"
    return pd.DataFrame(
        {"fraction_alive": alive, "fraction_alive_reason": pd.array(reasons.tolist(), dtype="str")},
        index=table.index,
    )


def _series_alive(
    time_s: NDArray[np.float64],
    transmission: NDArray[np.float64],
    texture: NDArray[np.float64],
    *,
    settings: ViabilitySettings,
) -> NDArray[np.float64]:
    """Fraction alive of one embryo's frames in time order."""
    out = np.empty(time_s.size)
    living: list[int] = []
    for i in range(time_s.size):
        absolute = max(
            _ramp(transmission[i], dead=settings.opaque_dead, alive=settings.opaque_alive),
            _ramp(texture[i], dead=settings.flat_dead, alive=settings.flat_alive),
        )
        if not living:
            out[i] = absolute
        else:
            recent = [j for j in living if time_s[i] - time_s[j] <= settings.baseline_h * 3600.0]
            # Once dead for longer than the window, the last living frame stays the yardstick.
            base = recent or living[-1:]
            dark = 1.0 - _ramp(
                _ratio(transmission[i], transmission[base]),
                dead=settings.dark_dead,
                alive=settings.dark_alive,
            )
            flat = 1.0 - _ramp(
                _ratio(texture[i], texture[base]), dead=settings.texture_dead, alive=settings.texture_alive
            )
            weight = settings.texture_weight
            out[i] = min(absolute, 1.0 - dark * (1.0 - weight + weight * flat))
        if out[i] >= settings.living_min:
            living.append(i)
    return out


def _ratio(value: float, base: NDArray[np.float64]) -> float:
    centre = float(np.median(base))
    return float(value) / centre if centre > 0 else 1.0


def _ramp(value: float, *, dead: float, alive: float) -> float:
    return float(np.clip((value - dead) / (alive - dead), 0.0, 1.0))
