"""The command line on the second workflow: the same verbs, its own goals, keys and columns."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from morphseq_dagster.engine.workspace import Workspace
from morphseq_dagster.testing.training import PIPELINE
from tests.second_workflow.conftest import CNN, MLP


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "home").mkdir()
    return tmp_path / "home"


def morphseq(study: Workspace, home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    variables = {"DAGSTER_HOME": str(home), "MORPHSEQ_PIPELINE": PIPELINE, "MORPHSEQ_DATA_ROOT": str(study.data_root)}
    return subprocess.run(
        [sys.executable, "-m", "morphseq_dagster.cli", *arguments],
        cwd=home,
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        check=False,
    )


def test_conditions_are_listed_planned_run_by_goal_and_shown(study: Workspace, home: Path) -> None:
    listed = json.loads(morphseq(study, home, "experiments", "--format", "json").stdout)
    assert [(entry["name"], entry["state"]) for entry in listed["experiments"]] == [(CNN, "ready"), (MLP, "ready")]
    planned = morphseq(study, home, "pipeline", "--dry-run")
    assert f"{CNN}: would run 3 of 3 steps" in planned.stdout
    prepared = morphseq(study, home, "pipeline", "prepare", "--experiments", CNN)
    assert prepared.returncode == 0, prepared.stderr
    status = json.loads(morphseq(study, home, "status", "--format", "json").stdout)
    assert status["experiments"][CNN]["columns"] == {"SPLIT": "ok", "FITS": "missing", "SCORES": "missing"}
    trained = morphseq(study, home, "pipeline")
    assert trained.returncode == 0, trained.stderr
    assert morphseq(study, home, "pipeline").stdout == f"{CNN}, {MLP}: nothing to do\n"
    assert morphseq(study, home, "materialize", "--partition", CNN).returncode == 0
    assert morphseq(study, home, "cohort").returncode == 0
    assert morphseq(study, home, "reconcile").returncode == 0
    explained = json.loads(morphseq(study, home, "explain", CNN, "--format", "json").stdout)
    assert [step["freshness"] for step in explained["steps"]] == ["fresh"] * 3


def test_goals_and_names_of_the_other_workflow_are_refused(study: Workspace, home: Path) -> None:
    refused = morphseq(study, home, "pipeline", "build01")
    assert refused.returncode == 2
    assert "one of e2e, prepare, train" in refused.stderr
    refused = morphseq(study, home, "pipeline", "--experiments", "20240418")
    assert refused.returncode == 2
    assert "a condition is a model" in refused.stderr
