from __future__ import annotations

from collections.abc import Callable

import dagster as dg
import pytest

from morphseq_dagster.engine.workspace import Workspace

A, B = "20240101", "20240102"


def test_unregistered_experiment_is_registered_and_made(
    say: Callable, add: Callable, workspace: Workspace, instance: dg.DagsterInstance
) -> None:
    add(A)
    said = say("materialize", "--partition", A)
    assert said.code == 0, said.err
    assert workspace.output("summary", experiment=A).is_file()
    assert instance.get_dynamic_partitions("experiment") == [A]
    assert "3 stand" in say("materialize", "--partition", A).err


def test_selection_is_dagsters(say: Callable, add: Callable, workspace: Workspace) -> None:
    add(A)
    assert say("materialize", "--partition", A, "--select", "*lengths").code == 0
    assert workspace.output("lengths", experiment=A).is_file()
    assert not workspace.output("summary", experiment=A).exists()


@pytest.mark.parametrize("select", ["nothing", "letters,nothing", ""])
def test_selection_of_nothing_is_refused(say: Callable, add: Callable, select: str) -> None:
    add(A)
    said = say("materialize", "--partition", A, "--select", select)
    assert said.code == 2
    assert "letters, lengths, summary" in said.err


@pytest.mark.parametrize("partition", ["20240109", "../20240101", "20240101; rm -rf /", ""])
def test_experiment_that_is_not_there_is_refused(say: Callable, add: Callable, partition: str) -> None:
    add(A)
    assert say("materialize", "--partition", partition).code == 2


def test_failure_of_one_experiment_leaves_the_other(say: Callable, add: Callable, workspace: Workspace) -> None:
    add(A, {"A01": "fail"})
    add(B)
    assert say("materialize", "--partition", f"{A},{B}").code == 1
    assert workspace.output("summary", experiment=B).is_file()


def test_pipeline_without_a_cohort_has_none_to_make(say: Callable) -> None:
    assert say("cohort").code == 2
