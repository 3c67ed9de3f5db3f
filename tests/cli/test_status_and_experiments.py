from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from morphseq_dagster.engine.workspace import Workspace
from morphseq_dagster.morphseq.paths import raw_root

A, B = "20240101", "20240102"


def test_status_shows_a_row_per_experiment_and_totals(say: Callable, add: Callable) -> None:
    add(A)
    add(B)
    assert say("pipeline", "--experiments", A).code == 0
    said = say("status")
    assert said.code == 0
    table = [line.split() for line in said.out.splitlines()[2:6]]
    assert table[:3] == [
        ["EXPERIMENT", "LETTERS", "LENGTHS", "SUMMARY"],
        [A, "ok", "ok", "ok"],
        [B, "missing", "missing", "missing"],
    ]
    assert table[3][1:] == ["1/2", "1/2", "1/2"]


def test_status_lists_what_failed_and_what_could_not_be_read(
    say: Callable, add: Callable, workspace: Workspace
) -> None:
    add(A, {"A01": "fail"})
    add(B)
    say("pipeline")
    workspace.layout.record(workspace.output("lengths", experiment=B)).write_text("?")
    out = say("status").out
    assert f"\nfailed or interrupted (1):\n  {A} letters: " in out
    assert f"\ncould not be read (1):\n  {B} lengths: " in out


def test_status_never_writes(say: Callable, add: Callable, listing: Callable) -> None:
    add(A)
    say("pipeline")
    before = listing()
    for options in ([], ["--verbose"], ["--format", "json"], ["--experiments", A]):
        assert say("status", *options).code == 0
    assert listing() == before


def test_status_as_json_and_of_named_experiments(say: Callable, add: Callable) -> None:
    add(A)
    add(f"{A}_extras")
    values = json.loads(say("status", "--format", "json", "--experiments", A).out)
    assert list(values["experiments"]) == [A]
    assert say("status", "--experiments", "20249999").code == 2


def test_missing_data_root_is_an_empty_status(say: Callable) -> None:
    said = say("status", "--data-root", "/nowhere/at/all")
    assert (said.code, said.out) == (0, "data root /nowhere/at/all, 0 experiments\n")


def test_experiments_lists_every_state_with_its_reason(say: Callable, add: Callable, workspace: Workspace) -> None:
    add(A)
    add(B, ready=False)
    (raw_root(workspace.layout) / "Keyence" / "fish\x1b[31m").mkdir()
    said = say("experiments")
    lines = {line.split()[0]: line for line in said.out.splitlines() if line[0] != " "}
    assert said.code == 0
    assert "ready" in lines[A]
    assert "acquiring" in lines[B]
    assert "ready in 2 h 00 min" in lines[B]
    assert "8-digit date" in lines["fish\\x1b[31m"]
    assert said.out.splitlines()[-1] == "3 found: 1 ready, 1 acquiring, 1 refused"
    assert said.out.count("workbook missing: tables will wait") == 2
    states = {e["name"]: e["state"] for e in json.loads(say("experiments", "--format", "json").out)["experiments"]}
    assert states == {A: "ready", B: "acquiring", "fish\x1b[31m": "refused"}


def test_errors_are_four_lines_and_a_traceback_only_on_request(
    say: Callable, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw_root(workspace.layout).write_text("not a folder")
    said = say("experiments")
    assert said.code == 1
    assert [line.split(":")[0].strip() for line in said.err.splitlines()] == [
        "error",
        "expected",
        "found",
        "where",
        "remedy",
    ]
    monkeypatch.setenv("MORPHSEQ_TRACE", "1")
    with pytest.raises(Exception, match="raw_image_data"):
        say("experiments")


def test_help_names_every_verb(say: Callable) -> None:
    out = say("--help").out
    for verb in ("demo", "experiments", "status", "pipeline", "materialize", "cohort", "doctor"):
        assert f"  {verb} " in out
