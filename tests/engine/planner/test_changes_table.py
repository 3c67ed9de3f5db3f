"""The table of changes proved: each change is made on a small experiment, and what computes is what the table says."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from morphseq_dagster.engine.cohort import compare_manifest, read_manifest
from morphseq_dagster.engine.layout import COHORT
from morphseq_dagster.engine.planner.plan import plan_experiments
from morphseq_dagster.engine.storage.records import read_record
from morphseq_dagster.morphseq.pipeline import MORPHSEQ
from tests.support.change_makers import MAKERS, WELLS, bring_pictures
from tests.support.change_scene import Scene
from tests.support.changes import ALL_STEPS, CHANGES, COHORT_STEP, Change, draw_table
from tests.support.experiments import (
    FRAMES_WELLS,
    make_small_frames,
)


@pytest.fixture(scope="module")
def baseline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("baseline") / "root"
    make_small_frames(root, wells=FRAMES_WELLS, times=2)  # the workbook knows a well whose pictures come later
    bring_pictures(Scene(root), wells=WELLS)
    Scene(root).run()
    return root


@pytest.fixture
def scene(baseline: Path, tmp_path: Path) -> Scene:
    """The baseline again, its files linked: sizes, times and inodes are as recorded."""
    root = tmp_path / "root"
    shutil.copytree(baseline, root, copy_function=os.link)
    return Scene(root)


@pytest.fixture(autouse=True)
def _import_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    sys.modules.pop("commented_step", None)


def test_every_row_has_its_change_and_every_change_its_row() -> None:
    assert sorted(MAKERS) == sorted(change.name for change in CHANGES)


def test_page_shows_the_table() -> None:
    page = Path(__file__).resolve().parents[3] / "docs" / "staleness.md"
    assert "\n".join(draw_table()) in page.read_text(encoding="utf-8")


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.name)
def test_what_computes_is_what_the_table_says(scene: Scene, change: Change) -> None:
    MAKERS[change.name](scene)
    plan = next(plan_experiments(scene.workspace, experiments=[scene.experiment]))
    cohort_is_stale = _cohort_is_stale(scene)
    computed = scene.run()
    assert computed == [name for name in ALL_STEPS if name in change.recomputes]
    # The plan covers what computed, and what it was certain of did compute.
    own_steps = {name for name in computed if name != COHORT_STEP}
    assert own_steps <= set(plan.closure)
    assert {verdict.step for verdict in plan.pending if verdict.certain} <= own_steps
    if not own_steps:
        assert cohort_is_stale == (COHORT_STEP in computed)
    # One launch reaches the end: nothing is left, and nothing computes twice.
    assert next(plan_experiments(scene.workspace, experiments=[scene.experiment])).pending == ()
    assert not _cohort_is_stale(scene)
    assert scene.run() == []


def _cohort_is_stale(scene: Scene) -> bool:
    layout = scene.workspace.layout
    record = read_record(layout, primary=layout.primary(COHORT_STEP, experiment=COHORT))
    assert record is not None
    return compare_manifest(read_manifest(MORPHSEQ, layout=layout), record=record).is_stale
