"""Whether an embryo's row is usable: named policies over the flags, with the reason in words (spec 6.4).

A flag that is unknown never excludes a row; the reason names it.
"""

from __future__ import annotations

import pandas as pd

from morphseq_dagster.errors import ContractError
from morphseq_dagster.quality.parameters import PolicyName, UseEmbryoSettings

POLICIES: dict[PolicyName, tuple[str, ...]] = {
    "newest": ("dead_flag", "dead_flag2", "sa_outlier_flag", "sam2_qc_flag"),
    "with_frame_and_yolk": (
        "dead_flag",
        "dead_flag2",
        "sa_outlier_flag",
        "sam2_qc_flag",
        "frame_flag",
        "no_yolk_flag",
    ),
    "build03_legacy": ("bubble_flag", "focus_flag", "frame_flag", "dead_flag", "no_yolk_flag"),
    "build04_legacy": (
        "bubble_flag",
        "focus_flag",
        "frame_flag",
        "dead_flag",
        "no_yolk_flag",
        "out_of_frame_flag",
        "dead_flag2",
        "sa_outlier_flag",
    ),
}
"""Flags of each policy, in the order in which reasons name them."""


DEFAULT_USE_EMBRYO = UseEmbryoSettings()


def decide_use(table: pd.DataFrame, *, settings: UseEmbryoSettings = DEFAULT_USE_EMBRYO) -> pd.DataFrame:
    """Decide per row, never excluding for a flag that is unknown.

    Parameters
    ----------
    table
        The policy's flag columns, boolean with missing values allowed; a column that is absent is unknown in
        every row.

    Returns
    -------
    DataFrame
        Index of `table`; `use_embryo_flag` (bool) and `use_embryo_reason` (str): for example "excluded: dead_flag,
        sam2_qc_flag; unknown: sa_outlier_flag", empty when every flag is known and none is raised.

    Raises
    ------
    ContractError
        When a flag column holds anything but true, false and missing; all such columns are named.
    """
    flags = POLICIES[settings.policy]
    raised, missing = _read_flags(table, flags=flags)
    use, reasons = [], []
    for row in range(len(table)):
        on = [name for name in flags if raised[name][row]]
        not_known = [name for name in flags if missing[name][row]]
        parts = []
        passes = not on or (settings.ignore_sa_outlier_alone and on == ["sa_outlier_flag"])
        if on:
            parts.append(f"{'ignored' if passes else 'excluded'}: {', '.join(on)}")
        if not_known:
            parts.append(f"unknown: {', '.join(not_known)}")
        use.append(passes)
        reasons.append("; ".join(parts))
    return pd.DataFrame(
        {"use_embryo_flag": pd.array(use, dtype="bool"), "use_embryo_reason": pd.array(reasons, dtype="str")},
        index=table.index,
    )


def _read_flags(table: pd.DataFrame, *, flags: tuple[str, ...]) -> tuple[dict[str, list[bool]], dict[str, list[bool]]]:
    raised: dict[str, list[bool]] = {}
    missing: dict[str, list[bool]] = {}
    wrong = []
    for name in flags:
        if name not in table.columns:
            raised[name], missing[name] = [False] * len(table), [True] * len(table)
            continue
        try:
            # A NaN stays missing here; casting it to bool would raise the flag (spec, finding 7).
            column = table[name].astype("boolean")
        except (TypeError, ValueError):
            wrong.append(name)
            continue
        missing[name] = [bool(value) for value in column.isna()]
        raised[name] = [bool(value) for value in column.fillna(False)]
    if wrong:
        raise ContractError(
            expected="true, false or missing",
            found=f"other values in {', '.join(wrong)}",
            where="flag columns of the embryo table",
            remedy="read the flags as nullable booleans",
        )
    return raised, missing
