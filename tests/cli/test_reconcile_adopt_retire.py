from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import dagster as dg
import pytest

from morphseq_dagster.engine.workspace import Workspace
from morphseq_dagster.morphseq.paths import raw_folder
from morphseq_dagster.testing.chain import run_chain, write_words

EXP = "20240418"
Say = Callable[..., Any]


@pytest.fixture
def made(workspace: Workspace) -> Workspace:
    write_words(workspace.layout, EXP, words={"A01": "fish", "A02": "egg"})
    run_chain(workspace, EXP)
    return workspace


def test_reconcile_reports_and_tells_by_its_exit_code(made: Workspace, say: Say) -> None:
    assert say("reconcile").code == 0
    path = made.output("lengths", experiment=EXP)
    path.write_bytes(path.read_bytes().replace(b"4", b"5"))
    said = say("reconcile")
    assert said.code == 1
    assert f"edited             {made.layout.relative(path)}" in said.out
    assert "--discard PATH" in said.out


def test_reconcile_as_json(made: Workspace, say: Say) -> None:
    made.output("summary", experiment=EXP).unlink()
    said = say("reconcile", "--format", "json")
    value = json.loads(said.out)
    assert (said.code, value["remaining"], value["checked"]) == (1, 1, 3)
    assert value["findings"][0]["kind"] == "deleted"
    assert value["departed"] == [{"experiment": EXP, "records": 3}]


def test_discard_takes_paths_from_the_report(made: Workspace, say: Say) -> None:
    path = made.output("lengths", experiment=EXP)
    before = path.read_bytes()
    path.write_bytes(before.replace(b"4", b"5"))
    said = say("reconcile", "--discard", made.layout.relative(path))
    assert said.code == 0
    assert "to be made again" in said.err
    run_chain(made, EXP)
    assert path.read_bytes() == before


def test_an_action_that_is_refused_fails_the_call(made: Workspace, say: Say) -> None:
    said = say("reconcile", "--keep", str(made.output("lengths", experiment=EXP)))
    assert said.code == 1
    assert "as recorded" in said.err


def test_refresh_takes_new_inodes_over(made: Workspace, say: Say) -> None:
    path = made.output("lengths", experiment=EXP)
    other = path.with_name("x")
    other.write_bytes(path.read_bytes())
    other.rename(path)
    said = say("reconcile")
    assert said.code == 0
    assert "1 have their content and other times" in said.out
    say("reconcile", "--refresh")
    assert "other times" not in say("reconcile").out


@pytest.mark.parametrize("names", ["20990101", " , "])
def test_unknown_experiments_and_lists_without_a_name_are_refused(made: Workspace, say: Say, names: str) -> None:
    del made
    assert say("reconcile", "--experiments", names).code == 2
    assert say("adopt", "--experiments", names).code == 2


def test_a_lost_home_is_filled_again(made: Workspace, say: Say) -> None:
    del made
    said = say("reconcile", "--report-to-dagster")
    assert said.code == 0
    assert "reported 3 artifacts" in said.err
    assert "3 were known" in say("reconcile", "--report-to-dagster").err
    with dg.DagsterInstance.get() as instance:
        assert instance.get_dynamic_partitions("experiment") == [EXP]


def test_retire_says_first_and_keeps_records(made: Workspace, say: Say) -> None:
    say("reconcile", "--report-to-dagster")
    said = say("retire", EXP)
    assert said.code == 0
    assert "would be removed; 3 records" in said.out
    said = say("retire", EXP, "--apply")
    assert said.out == f"{EXP}: retired; partition removed, 3 records kept\n"
    with dg.DagsterInstance.get() as instance:
        assert instance.get_dynamic_partitions("experiment") == []
    assert made.output("lengths", experiment=EXP).exists()
    assert "departed" not in say("reconcile").out


def test_retire_waits_for_runs_in_flight(made: Workspace, say: Say) -> None:
    del made
    say("reconcile", "--report-to-dagster")
    with dg.DagsterInstance.get() as instance:
        run = dg.DagsterRun(
            job_name="pipeline",
            run_id="00000000-0000-0000-0000-000000000001",
            status=dg.DagsterRunStatus.STARTED,
            tags={"dagster/partition": EXP},
        )
        instance.add_run(run)
    said = say("retire", EXP, "--apply")
    assert said.code == 1
    assert "00000000-0000-0000-0000-000000000001" in said.err


def test_retire_refuses_what_is_still_there(made: Workspace, say: Say) -> None:
    raw_folder(made.layout, "YX1", experiment=EXP).mkdir(parents=True)
    said = say("retire", EXP, "--apply")
    assert said.code == 2
    assert "is there" in said.err


def test_adopt_brings_nothing_where_everything_is_recorded(made: Workspace, say: Say) -> None:
    del made
    said = say("adopt", "--experiments", EXP, "--format", "json")
    assert said.code == 0
    outcomes = json.loads(said.out)["outcomes"]
    assert [(o["step"], o["action"]) for o in outcomes] == [(s, "recorded") for s in ("letters", "lengths", "summary")]


def test_adopt_refuses_a_root_that_is_none(made: Workspace, say: Say) -> None:
    del made
    assert say("adopt", "--from", "/nowhere").code == 2
