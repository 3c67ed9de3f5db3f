"""Values of older JSON documents, read tolerantly: boxes, numbers, texts; what is wrong is named instead of guessed."""

from __future__ import annotations

import math
from typing import Any, Final, TypeGuard

_SLACK: Final = 0.02
"""How far a normalised box may leave the picture: detectors' boxes do at the edges, by about a hundredth."""

Box = tuple[float, float, float, float]


def read_box(value: Any) -> Box | str:  # noqa: ANN401 - anything from a JSON file
    """Box in fractions of width and height, clipped to the picture; a text says why it is none."""
    if not isinstance(value, list | tuple) or len(value) != 4 or not all(is_number(part) for part in value):
        return f"a box of four numbers is expected, not {value!r}"
    low, high = min(value), max(value)
    if low < -_SLACK or high > 1 + _SLACK:
        return f"box {[round(float(v), 3) for v in value]} is not in fractions of the picture"
    left, top, right, bottom = (min(max(float(part), 0.0), 1.0) for part in value)
    if right < left or bottom < top:
        return f"box {[left, top, right, bottom]} is turned round"
    return left, top, right, bottom


def as_object(value: Any) -> dict[str, Any]:  # noqa: ANN401 - anything from a JSON file
    """The value if it is an object, else an empty one."""
    return value if isinstance(value, dict) else {}


def as_list(value: Any) -> list[Any]:  # noqa: ANN401 - anything from a JSON file
    """The value if it is a list, else an empty one."""
    return value if isinstance(value, list) else []


def is_number(value: object) -> TypeGuard[float]:
    """Whether a value is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def clean(value: Any) -> Any:  # noqa: ANN401 - any JSON value in and out
    """Replace NaN, infinities and the text `nan` by null, all the way down."""
    if isinstance(value, dict):
        return {str(key): clean(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [clean(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return None if isinstance(value, str) and value.lower() == "nan" else value


def text_or_none(value: Any) -> str | None:  # noqa: ANN401 - anything from a JSON file
    """Text of a value; None for nulls and blanks."""
    value = clean(value)
    return None if value is None or value == "" else str(value)


def number_or_none(value: Any) -> float | None:  # noqa: ANN401 - anything from a JSON file
    """Number of a value or of its text; None for everything else."""
    if is_number(value):
        return float(value)
    try:
        number = float(str(value))
    except ValueError:
        return None
    return number if math.isfinite(number) else None
