"""Retirement: refused while an experiment is there or at work; the mark holds until the raw folder is back."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from morphseq_dagster.engine.planner.retirement import mark_retired, read_retired, refuse_retirement
from morphseq_dagster.engine.storage.step_locks import hold_lock
from morphseq_dagster.engine.workspace import Workspace
from morphseq_dagster.errors import PermanentError, TransientError
from morphseq_dagster.morphseq.paths import raw_folder

EXP = "20240101"


def test_experiment_whose_raw_folder_is_there_is_not_retired(workspace: Workspace, add: Callable) -> None:
    add(EXP)
    with pytest.raises(PermanentError, match=f"raw_image_data/Frames/{EXP} is there"):
        refuse_retirement(workspace, experiment=EXP)
    raw_folder(workspace.layout, "Frames", experiment=EXP).rmdir()
    refuse_retirement(workspace, experiment=EXP)


def test_experiment_at_work_is_not_retired_and_a_longer_name_is_another(workspace: Workspace) -> None:
    with hold_lock(workspace.layout.lock("letters", experiment=f"{EXP}_b"), run_id="r"):
        refuse_retirement(workspace, experiment=EXP)
    with (
        hold_lock(workspace.layout.lock("letters", experiment=EXP), run_id="run7"),
        pytest.raises(TransientError, match=r"letters is held by process \d+ .*run7"),
    ):
        refuse_retirement(workspace, experiment=EXP)


def test_mark_holds_until_the_raw_folder_is_back(workspace: Workspace, add: Callable) -> None:
    assert read_retired(workspace) == frozenset()
    mark = mark_retired(workspace.layout, experiment=EXP, host="h", records=3)
    mark_retired(workspace.layout, experiment="20240102", host="h", records=0)
    assert (mark.experiment, mark.host, mark.records) == (EXP, "h", 3)
    assert read_retired(workspace) == {EXP, "20240102"}
    add(EXP)
    assert read_retired(workspace) == {"20240102"}


def test_damaged_mark_is_an_error_that_names_it(workspace: Workspace) -> None:
    mark_retired(workspace.layout, experiment=EXP, host="h", records=3)
    workspace.layout.retired(EXP).write_text("{}")
    with pytest.raises(PermanentError, match=f"{EXP}.json"):
        read_retired(workspace)


@pytest.mark.parametrize("name", ["../x", "fish"])
def test_name_that_is_none_is_refused(workspace: Workspace, name: str) -> None:
    with pytest.raises(PermanentError):
        refuse_retirement(workspace, experiment=name)
