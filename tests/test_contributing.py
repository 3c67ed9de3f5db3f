"""The example of CONTRIBUTING.md: the step, its entries and its test, run as they stand there."""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from morphseq_dagster.morphseq.pipeline import MORPHSEQ
from morphseq_dagster.testing.step_bench import StepBench

PAGE = Path(__file__).resolve().parents[1] / "CONTRIBUTING.md"


def test_the_example_of_a_step_and_its_test_works_as_it_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    body, entries, test = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert max(len(block.splitlines()) for block in (body, entries, test)) <= 24
    (tmp_path / "frame_counts.py").write_text(body)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "frame_counts", raising=False)
    named: dict[str, Any] = {}
    exec(entries, named)
    pipeline = replace(
        MORPHSEQ, steps=(*MORPHSEQ.steps, named["STEP"]), artifacts=(*MORPHSEQ.artifacts, named["ARTIFACT"])
    )
    exec(test, named)
    named["test_frames_are_counted_per_well"](
        StepBench(tmp_path / "root", experiment="20250529_ctrl", pipeline=pipeline)
    )


def test_files_that_the_page_names_are_there() -> None:
    text = PAGE.read_text(encoding="utf-8")
    named = set(re.findall(r"`((?:[a-z_]+/)+[a-z_]+\.(?:py|md))`", text)) | set(re.findall(r"\]\(([a-z_/]+\.md)", text))
    example = {"morphseq/steps/frame_counts.py"}
    missing = [
        name
        for name in named - example
        if not (PAGE.parent / name).exists() and not (PAGE.parent / "morphseq_dagster" / name).exists()
    ]
    assert not missing
