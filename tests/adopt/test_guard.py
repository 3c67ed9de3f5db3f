"""An ordinary run does not replace an older tree that nobody has adopted; what adoption cannot use is kept aside."""

from __future__ import annotations

from pathlib import Path

import pytest

from morphseq_dagster.adopt.importer import Import
from morphseq_dagster.engine.layout import FAILURE_SUFFIX
from morphseq_dagster.engine.planner.plan import plan_experiments
from morphseq_dagster.engine.workspace import Workspace
from morphseq_dagster.errors import PermanentError
from tests.support.experiments import FRAMES_EXPERIMENT, open_data_root, run_experiment
from tests.support.older_tree import OlderForm, copy_inputs, write_older_tree


@pytest.fixture
def lab(finished_frames: Path, tmp_path: Path) -> Workspace:
    """The tree of another program, at our own paths, with the raw data."""
    finished, lab = open_data_root(finished_frames), open_data_root(tmp_path / "lab")
    copy_inputs(finished, FRAMES_EXPERIMENT, data_root=lab.data_root)
    write_older_tree(finished, FRAMES_EXPERIMENT, root=lab.data_root, form=OlderForm())
    return lab


def older_files(lab: Workspace) -> dict[Path, tuple[int, int]]:
    found = (p for p in lab.data_root.rglob("*") if p.is_file() and ".morphseq" not in p.parts)
    return {p: (p.stat().st_ino, p.stat().st_mtime_ns) for p in found if not p.name.endswith(FAILURE_SUFFIX)}


def test_run_on_an_older_tree_is_refused_until_it_is_adopted(lab: Workspace) -> None:
    before = older_files(lab)
    run = run_experiment(lab, FRAMES_EXPERIMENT, keep_going=True)
    assert isinstance(run.errors["ff_images"], PermanentError)
    assert "files without a record" in run.errors["ff_images"].found
    assert {path: seen for path, seen in older_files(lab).items() if path in before} == before
    (plan,) = plan_experiments(lab, experiments=[FRAMES_EXPERIMENT])
    assert "morphseq adopt" in plan.verdict("ff_images").held
    assert plan.automatic == ()

    outcomes = {o.step: o.action for o in Import(lab, lab.data_root, apply=True).run([FRAMES_EXPERIMENT])}
    assert outcomes["ff_images"] == outcomes["sam2_tracks"] == "adopt"
    run = run_experiment(lab, FRAMES_EXPERIMENT)
    assert not {"ff_images", "organized_frames", "gdino_raw", "sam2_tracks"} & set(run.computed)
    (plan,) = plan_experiments(lab, experiments=[FRAMES_EXPERIMENT])
    assert (plan.closure, plan.held) == ((), ())


def test_light_file_that_adoption_cannot_use_is_kept_aside(lab: Workspace) -> None:
    table = lab.output("built_metadata", experiment=FRAMES_EXPERIMENT)
    table.parent.mkdir(parents=True, exist_ok=True)
    table.write_bytes(b"well;nothing that we know\nA01;1\n")
    outcomes = {o.step: o.action for o in Import(lab, lab.data_root, apply=True).run([FRAMES_EXPERIMENT])}
    assert outcomes["built_metadata"] == "make"
    assert lab.layout.put_aside(lab.layout.relative(table)).read_bytes().startswith(b"well;nothing")
    assert table.read_bytes().startswith(b"well_id,well,time_int")
