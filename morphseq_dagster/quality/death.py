"""Death over time: `dead_flag2` and `dead_inflection_time_int` of each embryo (spec 6.2, 11.6).

"isotonic" is the default: it works in hours, so that its limits mean the same at any frame interval, and takes missing,
repeated and unsorted frames as they come. It answers the golden cases of spec 6.2 as the reference rule does. "savgol"
is upstream's rule, kept to compare with older tables; its limits count frames.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression
from scipy.signal import savgol_filter

from morphseq_dagster.morphometry.columns import require_columns
from morphseq_dagster.quality.parameters import DeathSettings
from morphseq_dagster.quality.tri_state import TriStateFlag, unknown, verdict_columns

Floats = NDArray[np.float64]


DEFAULT_DEATH = DeathSettings()

DEATH_INPUT = ("embryo_id", "time_int", "time_s", "fraction_alive")


def infer_death(table: pd.DataFrame, *, settings: DeathSettings = DEFAULT_DEATH) -> pd.DataFrame:
    """Find the frame in which each embryo begins to die, and flag from some hours before on.

    Parameters
    ----------
    table
        Columns `embryo_id` (str), `time_int` (frame number), `time_s` (s), `fraction_alive` (0..1, missing =
        unknown); for "savgol" also `predicted_stage_hpf` (h). Any order, any index.

    Returns
    -------
    DataFrame
        Index of `table`; `dead_inflection_time_int` (nullable Int64: last frame before the decline, on all rows
        of the embryo), `dead_flag2` (nullable boolean) and `dead_flag2_reason` (str). "isotonic" leads in real
        hours; "savgol" leads in stage hours, as upstream.

    Raises
    ------
    ContractError
        When columns are missing; all are named.
    """
    isotonic = settings.method == "isotonic"
    require_columns(table, DEATH_INPUT if isotonic else (*DEATH_INPUT, "predicted_stage_hpf"))
    frame = table["time_int"].to_numpy(dtype=np.float64, na_value=np.nan)
    alive = table["fraction_alive"].to_numpy(dtype=np.float64, na_value=np.nan)
    clock_name = "time_s" if isotonic else "predicted_stage_hpf"
    clock_h = table[clock_name].to_numpy(dtype=np.float64, na_value=np.nan) / (3600.0 if isotonic else 1.0)
    verdicts = np.full(len(table), unknown("no embryo_id"), dtype=object)
    inflection = np.full(len(table), np.nan)
    for positions in table.groupby("embryo_id", sort=True).indices.values():
        usable = positions[np.isfinite(frame[positions]) & np.isfinite(alive[positions])]
        problem = _unjudgeable(usable, frame=frame, settings=settings)
        if problem is not None:
            verdicts[positions] = unknown(problem)
            continue
        if isotonic:
            timed = usable[np.isfinite(clock_h[usable])]
            if _unjudgeable(timed, frame=clock_h, settings=settings) is not None:
                verdicts[positions] = unknown("too few frames with a time")
                continue
            start_h, start = _isotonic_start(clock_h[timed], frame[timed], alive[timed], settings=settings)
        else:
            start = find_decline_savgol(frame[usable], alive[usable], settings=settings)
            start_h = _clock_at(start, frame=frame[positions], clock_h=clock_h[positions])
        if start is not None:
            inflection[positions] = start
        for position in positions:
            verdicts[position] = _lead_verdict(
                clock_h[position], died=start is not None, start_h=start_h, lead_h=settings.lead_h, clock=clock_name
            )
    columns = verdict_columns(verdicts.tolist(), name="dead_flag2", index=table.index)
    columns["dead_inflection_time_int"] = pd.array(inflection, dtype="Int64")
    return columns[["dead_inflection_time_int", "dead_flag2", "dead_flag2_reason"]]


def _isotonic_start(
    time_h: Floats, time_int: Floats, fraction_alive: Floats, *, settings: DeathSettings
) -> tuple[float | None, int | None]:
    """Hour and frame before an embryo's fatal decline, by a monotone fit in hours; None when it lived.

    Frames are split into living and dead ones where the fewest frames contradict (living after, dead before);
    the embryo died if at least `persistence_share` of the frames after the split are dead and the falling
    fit drops there by `decline_per_h`. The split then moves back to where that fall began.
    """
    hours, first, inverse = np.unique(time_h, return_index=True, return_inverse=True)
    weight = np.bincount(inverse)
    alive = np.bincount(inverse, weights=fraction_alive) / weight
    frames = time_int[first]
    fit = np.asarray(isotonic_regression(alive, weights=weight, increasing=False).x)
    dead = alive < settings.dead_below - 1e-12
    split = _split(dead)
    after = dead[split:]
    if after.sum() < settings.dead_rows_min or after.mean() < settings.persistence_share:
        return None, None
    if split == 0:
        # Dead from its first frame on: no decline was seen, but the first frame bounds it.
        return float(hours[0]), int(frames[0])
    left, right = split - 1, split
    while hours[right] - hours[left] < settings.decline_span_h - 1e-9 and (left > 0 or right < hours.size - 1):
        # Grow on the side that is nearer in time, to keep the split in the middle.
        grow_left = hours[split] - hours[left - 1] if left > 0 else np.inf
        grow_right = hours[right + 1] - hours[split] if right < hours.size - 1 else np.inf
        if grow_left <= grow_right:
            left -= 1
        else:
            right += 1
    if not _falls(fit, hours, left, right, settings=settings):
        return None, None
    start = split - 1
    while start > 0 and _falls(fit, hours, start - 1, start, settings=settings):
        start -= 1
    return float(hours[start]), int(frames[start])


def _split(dead: NDArray[np.bool_]) -> int:
    """Index of the first dead frame such that fewest frames contradict; the frame count when none died."""
    dead_before = np.concatenate([[0], np.cumsum(dead)])
    alive_after = np.concatenate([np.cumsum((~dead)[::-1])[::-1], [0]])
    errors = dead_before + alive_after
    best = int(np.argmin(errors))
    return dead.size if errors[-1] <= errors[best] else best


def _falls(fit: Floats, hours: Floats, left: int, right: int, *, settings: DeathSettings) -> bool:
    rate = (fit[left] - fit[right]) / (hours[right] - hours[left])
    return bool(rate >= settings.decline_per_h - 1e-9)


def find_decline_savgol(
    time_int: Floats, fraction_alive: Floats, *, settings: DeathSettings = DEFAULT_DEATH
) -> int | None:
    """Last frame before the decline by upstream's rule (spec 6.2), made safe for repeats and missing values.

    Smooth, take the earliest interval that falls faster than the limit, accept its start when enough of the
    later original frames are dead; otherwise forget all up to it and start again. None when the embryo lived.
    """
    known = np.isfinite(time_int) & np.isfinite(fraction_alive)
    frames, inverse = np.unique(time_int[known], return_inverse=True)
    alive = np.bincount(inverse, weights=fraction_alive[known]) / np.bincount(inverse)
    dead = alive < settings.dead_below
    begin = 0
    while frames.size - begin >= settings.rows_min:
        part, times = alive[begin:], frames[begin:]
        if part.size >= settings.smoothing_window_frames:
            part = savgol_filter(part, settings.smoothing_window_frames, settings.smoothing_order)
        falling = np.flatnonzero(np.diff(part) / np.diff(times) < -settings.decline_per_frame)
        if falling.size == 0:
            return None
        start = begin + int(falling[0])
        later = dead[start + 1 :]
        if later.size and later.mean() >= settings.persistence_share:
            return int(frames[start])
        begin = start + 1
    return None


def _unjudgeable(rows: NDArray[np.intp], *, frame: Floats, settings: DeathSettings) -> str | None:
    if rows.size == 0:
        return "viability not measured"
    if np.unique(frame[rows]).size < settings.rows_min:
        return f"fewer than {settings.rows_min} frames with known viability"
    return None


def _clock_at(start: int | None, *, frame: Floats, clock_h: Floats) -> float | None:
    if start is None:
        return None
    values = clock_h[(frame == start) & np.isfinite(clock_h)]
    return float(values[0]) if values.size else None


def _lead_verdict(clock_h: float, *, died: bool, start_h: float | None, lead_h: float, clock: str) -> TriStateFlag:
    if not died:
        return TriStateFlag(False)
    if start_h is None or not np.isfinite(clock_h):
        return unknown(f"the embryo died, but {clock} is missing")
    return TriStateFlag(bool(clock_h >= start_h - lead_h - 1e-9))
