"""`morphseq stale`, `explain` and `recipe show` on toy and fabricated experiments, as a person calls them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from morphseq_dagster.cli import main
from morphseq_dagster.engine.workspace import Workspace
from morphseq_dagster.morphseq.pipeline import MORPHSEQ
from tests.support.fabricated import fabricate_experiment

FIRST, SECOND = "20240418_a", "20240418_b"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    workspace = Workspace(tmp_path / "root", MORPHSEQ)
    for experiment in (FIRST, SECOND):
        fabricate_experiment(workspace, experiment)
    return workspace.data_root


def call(capsys: pytest.CaptureFixture[str], root: Path, *arguments: str) -> tuple[int, str]:
    code = main([*arguments, "--data-root", str(root)])
    captured = capsys.readouterr()
    return code, captured.out + captured.err


def set_threshold(root: Path, *, name: str) -> None:
    (root / "recipes").mkdir(exist_ok=True)
    (root / "recipes" / f"{name}.toml").write_text("[gdino_detections]\nconfidence_threshold = 0.5\n")


def test_nothing_stale_is_said_and_launches_nothing(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, text = call(capsys, root, "stale", "--launch")
    assert code == 0
    assert "0 of 2 experiments" in text
    assert "nothing to launch" in text


def test_a_threshold_makes_filter_and_downstream_stale_where_it_applies(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    set_threshold(root, name=SECOND)
    code, text = call(capsys, root, "stale", "--format", "json")
    assert code == 0
    (plan,) = json.loads(text)["experiments"]
    assert plan["experiment"] == SECOND
    assert {step["step"] for step in plan["steps"]} == MORPHSEQ.descendants({"gdino_detections"})
    (cause,) = plan["steps"][0]["causes"]
    assert (cause["kind"], cause["subject"], cause["old"], cause["new"]) == (
        "recipe",
        "confidence_threshold",
        0.45,
        0.5,
    )
    set_threshold(root, name="default")
    assert len(json.loads(call(capsys, root, "stale", "--format", "json")[1])["experiments"]) == 2


def test_only_named_experiments_are_looked_at(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    set_threshold(root, name="default")
    text = call(capsys, root, "stale", "--experiments", FIRST)[1]
    assert FIRST in text
    assert SECOND not in text


def test_unknown_names_are_refused_before_anything(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(capsys, root, "stale", "--experiments", "20240418_nobody")[0] == 2
    assert call(capsys, root, "explain", "20240418_nobody")[0] == 2
    assert call(capsys, root, "explain", FIRST, "no_step")[0] == 2
    assert call(capsys, root, "recipe", "show", FIRST, "no_step")[0] == 2


def test_explain_names_parameter_values_file_run_and_cost(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    set_threshold(root, name=FIRST)
    text = call(capsys, root, "explain", FIRST, "gdino_detections")[1]
    for part in ("confidence_threshold: 0.45 -> 0.5", f"{FIRST}.toml", "run fabricated", "2026-01-01", "2 s to 20 s"):
        assert part in text


def test_explain_names_the_file_and_hashes_of_an_input(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    workbook = root / "metadata" / "well_metadata" / f"{FIRST}_well_metadata.xlsx"
    workbook.write_bytes(b"other")
    told = json.loads(call(capsys, root, "explain", FIRST, "plate_metadata", "--format", "json")[1])
    (step,) = told["steps"]
    (cause,) = step["causes"]
    assert (cause["kind"], cause["subject"]) == ("data", "plate_workbook")
    assert len(cause["old"]) == len(cause["new"]) == 64
    assert step["files"] == {"plate_workbook": f"metadata/well_metadata/{workbook.name}"}


def test_explain_of_what_is_fresh_says_so(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "nothing to do" in call(capsys, root, "explain", FIRST)[1]
    assert "snips: fresh" in call(capsys, root, "explain", FIRST, "snips")[1]


def test_recipe_show_tells_each_value_and_where_it_comes_from(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    set_threshold(root, name=FIRST)
    text = call(capsys, root, "recipe", "show", FIRST, "gdino_detections", "--format", "json")[1]
    found = {entry["parameter"]: (entry["value"], entry["from"]) for entry in json.loads(text)["parameters"]}
    assert found["gdino_detections.confidence_threshold"] == (0.5, str(root / "recipes" / f"{FIRST}.toml"))
    assert found["gdino_detections.iou_threshold"] == (0.5, "default")
    everything = call(capsys, root, "recipe", "show", SECOND)[1]
    assert "snips.snip." in everything


def test_recipe_show_names_what_is_set_for_a_backend_that_is_not_chosen(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (root / "recipes").mkdir()
    path = root / "recipes" / "default.toml"
    path.write_text("[gdino_raw]\nprompt = 'egg'\n[gdino_raw.classical]\nrim_mad = 9.0\n")
    text = call(capsys, root, "recipe", "show", FIRST, "gdino_raw")[1]
    assert f"gdino_raw.prompt of {path} is not used: it belongs to groundingdino and hf_groundingdino" in text
    assert text.count("not used") == 1
    assert "gdino_raw" not in call(capsys, root, "recipe", "show", FIRST, "snips")[1]
    path.write_text("[gdino_raw]\nbackend = 'groundingdino'\nprompt = 'egg'\n")
    assert "not used" not in call(capsys, root, "recipe", "show", FIRST, "gdino_raw")[1]


def test_recipe_show_refuses_an_unknown_key_with_the_nearest_right_one(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (root / "recipes").mkdir()
    (root / "recipes" / "default.toml").write_text("[gdino_detections]\nconfidence_treshold = 0.5\n")
    code, text = call(capsys, root, "recipe", "show", FIRST)
    assert code == 2
    assert "did you mean confidence_threshold?" in text


def test_dry_run_gives_reasons_and_cost_and_writes_nothing(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    set_threshold(root, name=FIRST)
    before = sorted(str(path) for path in root.rglob("*"))
    text = call(capsys, root, "pipeline", "--dry-run", "--experiments", FIRST)[1]
    assert "recipe confidence_threshold: 0.45 -> 0.5" in text
    assert "2 s to 20 s" in text
    assert sorted(str(path) for path in root.rglob("*")) == before


def test_status_shows_stale_with_its_reason_and_the_bottleneck(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    set_threshold(root, name=SECOND)
    text = call(capsys, root, "status")[1]
    assert f"{SECOND} gdino_detections: recipe confidence_threshold: 0.45 -> 0.5" in text
    assert "GDINO holds up most: 1 of 2" in text
    found = json.loads(call(capsys, root, "status", "--format", "json")[1])
    assert found["bottleneck"] == "GDINO"
    assert found["experiments"][SECOND]["steps"]["snips"]["state"] == "stale"
    assert found["experiments"][FIRST]["steps"]["snips"]["state"] == "ok"
    totals = {entry["column"]: entry for entry in found["cohort"]}
    assert (totals["GDINO"]["percent"], totals["FF"]["percent"]) == (50.0, 100.0)
