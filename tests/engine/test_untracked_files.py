"""What lies at an artifact's place without a record is not replaced unasked: an older program's, or a lost record."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from morphseq_dagster.engine.planner.plan import plan_experiments
from morphseq_dagster.engine.planner.reconcile_actions import discard
from morphseq_dagster.engine.planner.snapshot import take_snapshot
from morphseq_dagster.engine.planner.step_plans import ExperimentPlan
from morphseq_dagster.engine.storage.atomic_io import stage_file, write_durably
from morphseq_dagster.engine.storage.commit import Journal, Move
from morphseq_dagster.engine.storage.records import encode, read_failure, read_record
from morphseq_dagster.engine.workspace import Workspace
from morphseq_dagster.errors import PermanentError
from morphseq_dagster.testing.chain import open_toy, run_chain, write_words

EXPERIMENT = "20240418"
OLDER = b"what another program made"


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    workspace = open_toy(tmp_path / "root")
    write_words(workspace.layout, EXPERIMENT, words={"A01": "fish", "A02": "egg"})
    return workspace


def lay_table(workspace: Workspace) -> Path:
    path = workspace.output("lengths", experiment=EXPERIMENT)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(OLDER)
    return path


def lay_pictures(workspace: Workspace) -> Path:
    path = workspace.layout.folders("letters", experiment=EXPERIMENT)[0] / "images" / "A01_old.jpg"
    path.parent.mkdir(parents=True)
    path.write_bytes(OLDER)
    return path


def plan(workspace: Workspace) -> ExperimentPlan:
    return next(plan_experiments(workspace, experiments=[EXPERIMENT]))


KINDS = pytest.mark.parametrize(
    ("step", "lay"), [("lengths", lay_table), ("letters", lay_pictures)], ids=["table", "set"]
)


@KINDS
def test_run_refuses_and_leaves_everything_as_it_is(
    workspace: Workspace, step: str, lay: Callable[[Workspace], Path]
) -> None:
    path = lay(workspace)
    with pytest.raises(PermanentError) as caught:
        run_chain(workspace, EXPERIMENT)
    relative = workspace.layout.relative(path)
    assert f"1 files without a record, the first: {relative}" in caught.value.found
    for command in (f"morphseq adopt --experiments {EXPERIMENT}", "morphseq reconcile --discard", "--force"):
        assert command in caught.value.remedy
    assert path.read_bytes() == OLDER
    failure = read_failure(workspace.layout, primary=workspace.output(step, experiment=EXPERIMENT))
    assert failure is not None
    assert (failure.error.kind, relative in failure.error.message) == ("permanent", True)
    with pytest.raises(PermanentError, match="1 files without a record"):
        run_chain(workspace, EXPERIMENT)  # the failure's own file is none of them


@KINDS
def test_automation_leaves_it_to_a_person_and_status_names_the_file(
    workspace: Workspace, step: str, lay: Callable[[Workspace], Path]
) -> None:
    relative = workspace.layout.relative(lay(workspace))
    found = plan(workspace)
    assert f"{relative} is there without its record" in found.verdict(step).held
    assert "morphseq adopt" in found.verdict(step).held
    assert found.closure == ("letters", "lengths", "summary")
    assert found.automatic == (() if step == "letters" else ("letters",))
    (snapshot,) = take_snapshot(workspace, experiments=[EXPERIMENT])
    assert (snapshot.cells[step].state, relative in snapshot.cells[step].reason) == ("error", True)


@KINDS
@pytest.mark.parametrize("way", ["discard", "force"])
def test_given_up_it_is_kept_aside_and_the_step_runs(
    workspace: Workspace, step: str, lay: Callable[[Workspace], Path], way: str
) -> None:
    path = lay(workspace)
    if way == "discard":
        discard(workspace, workspace.output(step, experiment=EXPERIMENT))
        assert not path.exists()
        assert plan(workspace).held == ()
    run_chain(workspace, EXPERIMENT, force=way == "force")
    assert plan(workspace).closure == ()
    assert workspace.layout.put_aside(workspace.layout.relative(path)).read_bytes() == OLDER
    assert read_record(workspace.layout, primary=workspace.output(step, experiment=EXPERIMENT)) is not None


def test_files_that_are_put_aside_again_stand_beside_each_other(workspace: Workspace) -> None:
    for content in (b"one", b"two", b"one"):
        path = lay_table(workspace)
        path.write_bytes(content)
        discard(workspace, path)
    aside = workspace.layout.put_aside("tables")
    assert {p.name: p.read_bytes() for p in aside.iterdir()} == {
        "lengths_20240418.csv": b"one",
        "lengths_20240418.csv.1": b"two",
    }


def test_lost_record_of_a_good_file_is_refused_and_a_record_is_enough(workspace: Workspace) -> None:
    run_chain(workspace, EXPERIMENT)
    path = workspace.output("summary", experiment=EXPERIMENT)
    before, record = path.stat().st_ino, workspace.layout.record(path).read_bytes()
    workspace.layout.record(path).unlink()
    with pytest.raises(PermanentError, match="without a record"):
        run_chain(workspace, EXPERIMENT)
    assert path.stat().st_ino == before
    workspace.layout.record(path).write_bytes(record)
    assert all(hit for _, hit in run_chain(workspace, EXPERIMENT).values())


def test_file_of_a_publication_that_was_cut_off_is_not_foreign(workspace: Workspace) -> None:
    """Killed between the rename of the file and that of its record: the journal knows both."""
    run_chain(workspace, EXPERIMENT)
    layout, path = workspace.layout, workspace.output("lengths", experiment=EXPERIMENT)
    target = layout.record(path)
    temporary = stage_file(target, target.read_bytes())
    target.unlink()
    move = Move(
        temporary=layout.relative(temporary),
        target=layout.relative(target),
        kind="file",
        inode=temporary.stat().st_ino,
    )
    journal = Journal(step="lengths", experiment=EXPERIMENT, primary=layout.relative(path), moves=(move,))
    write_durably(layout.journal("lengths", experiment=EXPERIMENT), encode(journal))  # type: ignore[arg-type]
    assert plan(workspace).held == ()
    assert all(hit for _, hit in run_chain(workspace, EXPERIMENT).values())
    assert target.exists()


def test_damaged_record_that_is_given_up_takes_its_file_aside(workspace: Workspace) -> None:
    run_chain(workspace, EXPERIMENT)
    path = workspace.output("summary", experiment=EXPERIMENT)
    data = path.read_bytes()
    workspace.layout.record(path).write_text("{")
    discard(workspace, path)
    run_chain(workspace, EXPERIMENT)
    assert path.read_bytes() == data
    assert json.loads(data)["wells"] == 2
