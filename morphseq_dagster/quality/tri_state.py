"""A verdict that may be unknown: true, false or none of both, with a reason.

Upstream writes a failed row's flags as blanks, which its reader turns into True (spec, finding 7); here unknown is a
value of its own and never True.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd


@dataclass(frozen=True)
class TriStateFlag:
    """One flag of one embryo in one frame.

    Attributes
    ----------
    value
        True = flagged, False = checked and fine, None = unknown.
    reason
        Why it is unknown, never empty then; empty for a known verdict.
    """

    value: bool | None
    reason: str = ""

    def __post_init__(self) -> None:
        if (self.value is None) != bool(self.reason):
            raise ValueError("an unknown verdict needs a reason, a known one has none")


def unknown(reason: str) -> TriStateFlag:
    """Make a verdict that is unknown for `reason`."""
    return TriStateFlag(None, reason)


def verdict_columns(verdicts: Sequence[TriStateFlag], *, name: str, index: pd.Index) -> pd.DataFrame:
    """Columns `{name}` (nullable boolean) and `{name}_reason` (str, empty where known)."""
    return pd.DataFrame(
        {
            name: pd.array([verdict.value for verdict in verdicts], dtype="boolean"),
            f"{name}_reason": pd.array([verdict.reason for verdict in verdicts], dtype="str"),
        },
        index=index,
    )
