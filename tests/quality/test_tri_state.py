from __future__ import annotations

import pandas as pd
import pytest

from morphseq_dagster.quality.tri_state import TriStateFlag, unknown, verdict_columns


def test_unknown_needs_a_reason_and_known_has_none() -> None:
    with pytest.raises(ValueError, match="reason"):
        TriStateFlag(None)
    with pytest.raises(ValueError, match="reason"):
        TriStateFlag(True, "because")


def test_columns_keep_unknown_apart_from_both_truths() -> None:
    columns = verdict_columns(
        [TriStateFlag(True), TriStateFlag(False), unknown("no mask")], name="x_flag", index=pd.Index([5, 6, 7])
    )
    assert columns["x_flag"].tolist() == [True, False, pd.NA]
    assert columns["x_flag_reason"].tolist() == ["", "", "no mask"]
    assert columns.index.tolist() == [5, 6, 7]
    assert str(columns["x_flag"].dtype) == "boolean"
