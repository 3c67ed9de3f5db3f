"""Weights that recipes ask for: settings, causes, explanation, refusals, the doctor, on fabricated records."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from morphseq_dagster.cli import main
from morphseq_dagster.cli.checks import CheckResult
from morphseq_dagster.cli.weights import check_weights
from morphseq_dagster.engine.contract.context import StepContext
from morphseq_dagster.engine.planner.plan import plan_experiments
from morphseq_dagster.engine.planner.scans import Scans
from morphseq_dagster.engine.storage.hashing import hash_bytes
from morphseq_dagster.engine.workspace import Workspace
from morphseq_dagster.errors import PermanentError
from morphseq_dagster.morphseq.pipeline import MORPHSEQ
from morphseq_dagster.settings.machine import load_settings
from tests.support.fabricated import fabricate_experiment

NEURAL, PLAIN = "20240418_a", "20240418_b"
Call = Callable[..., tuple[int, str]]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "elsewhere" / "gdino.pth"
    path.parent.mkdir()
    path.write_bytes(b"one")
    return path


@pytest.fixture
def workspace(tmp_path: Path, file: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """Two experiments with records, of which one was made by a detector with weights."""
    monkeypatch.setenv("MORPHSEQ_WEIGHTS", json.dumps({"gdino": str(file)}))
    workspace = Workspace(tmp_path / "root", MORPHSEQ, load_settings().weights.named())
    recipe = workspace.layout.recipes(NEURAL)[1]
    recipe.parent.mkdir(parents=True)
    recipe.write_text('[gdino_raw]\nbackend = "groundingdino"\n')
    for experiment in (NEURAL, PLAIN):
        fabricate_experiment(workspace, experiment)
    return workspace


@pytest.fixture
def call(workspace: Workspace, capsys: pytest.CaptureFixture[str]) -> Call:
    def call(*arguments: str) -> tuple[int, str]:
        code = main([*arguments, "--data-root", str(workspace.data_root)])
        captured = capsys.readouterr()
        return code, captured.out + captured.err

    return call


def closure(workspace: Workspace, experiment: str = NEURAL, scans: Scans | None = None) -> tuple[str, ...]:
    (plan,) = plan_experiments(workspace, experiments=[experiment], scans=scans)
    return plan.closure


def test_only_the_backend_that_wants_weights_has_them_in_its_request(workspace: Workspace, file: Path) -> None:
    spec = MORPHSEQ.spec("gdino_raw")
    neural, plain = (workspace.request(spec, experiment=name) for name in (NEURAL, PLAIN))
    assert [entry.name for entry in plain.inputs] == ["organized_frames"]
    assert [(e.name, e.sha256) for e in neural.inputs[1:]] == [("gdino_weights", hash_bytes(b"one"))]
    without = Workspace(workspace.data_root, MORPHSEQ)
    assert without.request(spec, experiment=PLAIN).key == plain.key
    assert closure(without, PLAIN) == ()
    assert StepContext(neural, layout=workspace.layout).weights("gdino_weights") == file


def test_place_and_time_of_weights_are_in_no_key_and_their_content_is(workspace: Workspace, file: Path) -> None:
    assert closure(workspace) == ()
    os.utime(file, ns=(0, 0))
    assert closure(workspace) == ()
    moved = file.rename(workspace.data_root / "gdino.pth")
    elsewhere = Workspace(workspace.data_root, MORPHSEQ, {"gdino": moved})
    assert closure(elsewhere) == ()
    assert elsewhere.request(MORPHSEQ.spec("gdino_raw"), experiment=NEURAL).inputs[1].path == "gdino.pth"
    moved.write_bytes(b"other")
    assert closure(elsewhere)[0] == "gdino_raw"
    assert closure(elsewhere, PLAIN) == ()


def test_explain_names_file_and_hashes_of_changed_weights(call: Call, file: Path) -> None:
    file.write_bytes(b"other")
    text = call("explain", NEURAL, "gdino_raw")[1]
    for part in (
        "weights gdino_weights changed",
        f"old: {hash_bytes(b'one')}",
        f"new: {hash_bytes(b'other')}",
        f"file: {file}",
    ):
        assert part in text
    (plan,) = json.loads(call("stale", "--format", "json")[1])["experiments"]
    assert (plan["experiment"], plan["steps"][0]["step"]) == (NEURAL, "gdino_raw")
    assert [cause["kind"] for cause in plan["steps"][0]["causes"]] == ["weights"]


def test_planning_reads_known_weights_no_more_and_a_budget_is_kept(workspace: Workspace, file: Path) -> None:
    """Fabricating has read them; rewritten in place with their time set back, only reading would tell."""
    status = file.stat()
    file.write_bytes(b"two")
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert closure(workspace) == ()
    os.utime(file, ns=(0, 0))
    poor = Scans(workspace.layout, budget_files=1000, budget_bytes=2)
    assert closure(workspace, scans=poor) == ()
    assert poor.skipped == [str(file)]
    assert closure(workspace)[0] == "gdino_raw"


def test_result_stands_where_a_machine_names_no_weights(workspace: Workspace) -> None:
    viewer = Workspace(workspace.data_root, MORPHSEQ)
    (plan,) = plan_experiments(viewer, experiments=[NEURAL])
    assert plan.closure == ()
    assert "name no weights `gdino`" in plan.verdict("gdino_raw").held


def test_weights_that_are_not_there_are_refused_with_the_command(workspace: Workspace, file: Path) -> None:
    file.unlink()
    with pytest.raises(PermanentError) as caught:
        workspace.request(MORPHSEQ.spec("gdino_raw"), experiment=NEURAL)
    assert (caught.value.found, caught.value.where) == ("no file", str(file))
    assert "[weights] of morphseq.toml" in caught.value.remedy
    assert "morphseq doctor" in caught.value.remedy
    assert workspace.request(MORPHSEQ.spec("gdino_raw"), experiment=PLAIN).inputs
    (plan,) = plan_experiments(workspace, experiments=[NEURAL])
    assert plan.closure == ()
    assert str(file) in plan.verdict("gdino_raw").held


def test_unknown_name_of_weights_is_refused_by_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MORPHSEQ_WEIGHTS", '{"gdina": "/x"}')
    with pytest.raises(PermanentError, match=r"weights\.gdina"):
        load_settings()


def test_section_of_the_settings_file_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "morphseq.toml").write_text('[weights]\nsam2 = "models/sam2.pt"\nlatents = "/models/vae"\n')
    assert load_settings().weights.named() == {
        "sam2": tmp_path / "models" / "sam2.pt",
        "latents": Path("/models/vae"),
    }


def test_doctor_tells_which_weights_are_there_and_who_wants_them(workspace: Workspace, file: Path, call: Call) -> None:
    def look(weights: dict[str, Path]) -> CheckResult:
        (finding,) = check_weights(Workspace(workspace.data_root, MORPHSEQ, weights))
        return finding

    good = look({"gdino": file})
    assert (good.level, good.command) == ("ok", "")
    assert f"{file}, SHA-256 {hash_bytes(b'one')[:12]}, wanted by {NEURAL}" in good.text
    unnamed = look({})
    assert (unnamed.level, "not named" in unnamed.text, "[weights]" in unnamed.command) == ("problem", True, True)
    file.unlink()
    gone = look({"gdino": file})
    assert (gone.level, f"{file} is not there, wanted by {NEURAL}" in gone.text) == ("problem", True)
    code, text = call("doctor")
    assert code == 1
    assert f"PROBLEM  weights gdino: {file} is not there, wanted by {NEURAL}" in text


def test_doctor_counts_many_experiments_and_notes_weights_that_nobody_wants(workspace: Workspace, file: Path) -> None:
    layout = workspace.layout
    layout.recipes("default")[0].write_text('[latents]\nmodel = "other"\n')
    for number in range(3):
        fabricate_experiment(workspace, f"20240419_{number}", steps=["raw_manifest"])
    found = {f.text.split()[1].rstrip(":"): f for f in check_weights(workspace)}
    assert "wanted by 20240418_a, 20240418_b, 20240419_0 and 2 more" in found["latents"].text
    layout.recipes("default")[0].unlink()
    layout.recipes(NEURAL)[1].unlink()
    (note,) = check_weights(workspace)
    assert (note.level, "wanted by no recipe" in note.text) == ("note", True)
    assert [f.text for f in check_weights(Workspace(workspace.data_root, MORPHSEQ))] == ["no recipe asks for weights"]
    file.unlink()
    assert [f.level for f in check_weights(workspace)] == ["note"]
