from __future__ import annotations

import pytest

from morphseq_dagster.engine.pipeline import KeyRule
from morphseq_dagster.errors import PermanentError


@pytest.mark.parametrize(
    ("noun", "words"), [("experiment", "an experiment such as"), ("condition", "a condition such as")]
)
def test_refused_key_is_told_in_the_workflow_s_own_noun(noun: str, words: str) -> None:
    rule = KeyRule(lambda key: "a blank" if " " in key else None, noun=noun, example="cnn", remedy="mend it")
    with pytest.raises(PermanentError) as caught:
        rule.check("c n")
    error = caught.value
    assert (error.expected, error.found, error.where, error.remedy) == (
        f"{words} cnn",
        "a blank",
        f"{noun} 'c n'",
        "mend it",
    )
    assert rule.check("cnn") == "cnn"
