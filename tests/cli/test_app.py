"""The list of verbs: all are there, and calling one imports neither the others nor anything heavy."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import import_module
from importlib.metadata import version
from pathlib import Path

import pytest

from morphseq_dagster import cli
from morphseq_dagster.cli.app import VERBS
from morphseq_dagster.engine.workspace import Workspace
from morphseq_dagster.morphseq.pipeline import MORPHSEQ
from tests.support.fabricated import fabricate_experiment, name_experiments

HEAVY = ("numpy", "pandas", "cv2", "scipy", "dagster", "torch", "rich.progress")
_ASKED = """
import json, sys
from morphseq_dagster.cli import main
code = main(sys.argv[1:])
print(json.dumps([code, sorted(sys.modules)]))
"""


def modules_after(*arguments: str) -> tuple[str, set[str]]:
    """Call a verb in a process of its own; return what it said and which modules it imported."""
    command = [sys.executable, "-c", _ASKED, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    said, _, last = done.stdout.rstrip().rpartition("\n")
    code, modules = json.loads(last)
    assert code == 0, done.stderr
    return said, set(modules)


def test_every_verb_is_listed_with_its_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == 0
    said = capsys.readouterr().out
    listed = [line.split()[0] for line in said.partition("Commands:")[2].splitlines() if line.strip()]
    assert tuple(listed) == VERBS


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([verb, "--help"]) == 0
    said = capsys.readouterr().out
    assert f" {verb} [OPTIONS]" in said
    assert "--install-completion" not in said
    module = verb.replace("-", "_")
    assert hasattr(import_module(f"morphseq_dagster.cli.{module}"), module)


def test_misspelt_verb_is_refused_with_the_nearest_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["pipelin"]) == 2
    assert "Did you mean 'pipeline'?" in capsys.readouterr().err


@pytest.mark.parametrize("verb", ["pipeline", "status", "stale"])
def test_planning_imports_no_other_verb_and_nothing_heavy(verb: str, tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "root", MORPHSEQ)
    (experiment,) = name_experiments(1)
    fabricate_experiment(workspace, experiment)
    said, modules = modules_after(verb, "--data-root", str(workspace.data_root))
    assert experiment in said or "0 of 1 experiments" in said
    assert not modules & set(HEAVY)
    others = {f"morphseq_dagster.cli.{name.replace('-', '_')}" for name in VERBS if name not in (verb, "status")}
    assert not modules & others


def test_short_option_asks_for_help_too(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in ([], ["recipe", "show"], ["status"]):
        assert cli.main([*arguments, "--help"]) == 0
        wanted = capsys.readouterr().out
        assert cli.main([*arguments, "-h"]) == 0
        assert capsys.readouterr().out == wanted


def test_list_of_verbs_cuts_no_sentence_short(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["-h"]) == 0
    listed = capsys.readouterr().out.partition("Commands:")[2]
    assert "recipe" in listed
    assert "..." not in listed


def test_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"morphseq {version('morphseq-dagster')}\n"
