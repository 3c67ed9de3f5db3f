"""Names that are tricks, broken neighbours and damaged artifacts: refused, contained, made again."""

from __future__ import annotations

from pathlib import Path

import pytest

from morphseq_dagster.engine.workspace import Workspace
from morphseq_dagster.errors import MorphseqError, PermanentError
from morphseq_dagster.morphseq.paths import raw_folder
from morphseq_dagster.morphseq.pipeline import MORPHSEQ
from tests.support.experiments import (
    FRAMES_EXPERIMENT,
    STEPS,
    make_small_frames,
    open_data_root,
    read_artifacts,
    run_experiment,
)


@pytest.fixture
def workspace(frames_root: Path) -> Workspace:
    return open_data_root(frames_root)


@pytest.mark.parametrize(
    "name",
    [
        "../20250529_ctrl",
        "20250529_ctrl/../../../etc",
        "/etc/passwd",
        "20250529_ctrl; rm -rf ~",
        "20250529_$(touch x)",
        "20250529_`id`",
        "20250529_ctrl\n",
        "20250529 ctrl",
        "20250529_ctrl\x00",
        "",
        ".",
        "*",
        "{exp}",
        "20250529_ctrl_A01",
        "20259999_ctrl",
        "2025052\uff19",
        "20250529_" + "x" * 200,
        "cohort",
    ],
)
def test_name_that_is_a_path_trick_or_shell_text_runs_nothing_and_writes_nothing(tmp_path: Path, name: str) -> None:
    workspace = open_data_root(tmp_path / "deep" / "root")
    workspace.data_root.mkdir(parents=True)
    with pytest.raises(MorphseqError):
        run_experiment(workspace, name)
    leftovers = [p for p in tmp_path.rglob("*") if p.is_file() and ".morphseq" not in p.parts]
    assert [p for p in leftovers if not p.name.endswith(".failure.json")] == []
    assert all(p.is_relative_to(workspace.data_root) for p in leftovers)


def test_folder_with_a_bad_name_is_refused_with_its_reason_and_touches_no_other(workspace: Workspace) -> None:
    for name in ("20250529_ctrl; rm -rf ~", "20250529_$(id)", "plate one", "20250529_ctrl_A01"):
        folder = raw_folder(workspace.layout, "Frames", experiment=name)
        folder.mkdir()
        (folder / "frames.csv").write_text("well,time_int,time_s,path,um_per_px\n")
    assert MORPHSEQ.sources is not None
    found = {entry.name: entry for entry in MORPHSEQ.sources.discover(workspace.layout)}
    assert {name: entry.state for name, entry in found.items()} == {
        "20250529_ctrl; rm -rf ~": "refused",
        "20250529_$(id)": "refused",
        "plate one": "refused",
        "20250529_ctrl_A01": "refused",
        FRAMES_EXPERIMENT: found[FRAMES_EXPERIMENT].state,
    }
    assert found[FRAMES_EXPERIMENT].state != "refused"
    assert "ends like a well" in found["20250529_ctrl_A01"].reason
    assert run_experiment(workspace, FRAMES_EXPERIMENT).computed == ()


# isolation


def test_one_broken_experiment_does_not_keep_another_from_its_final_table(tmp_path: Path) -> None:
    data_root = tmp_path / "root"
    make_small_frames(data_root, experiment="20250529_bad")
    make_small_frames(data_root, experiment="20250529_good")
    workspace = open_data_root(data_root)
    for picture in raw_folder(workspace.layout, "Frames", experiment="20250529_bad").glob("*.png"):
        picture.write_bytes(b"")
    broken = run_experiment(workspace, "20250529_bad", keep_going=True)
    assert list(broken.errors) == ["ff_images"]
    run = run_experiment(workspace, "20250529_good")
    assert run.computed == STEPS
    assert not workspace.output("ff_images", experiment="20250529_bad").exists()


# artifacts


def test_artifact_that_was_edited_is_made_again_not_read(workspace: Workspace) -> None:
    path = workspace.output("embryo_metadata", experiment=FRAMES_EXPERIMENT)
    good = path.read_bytes()
    path.write_bytes(good.replace(b"wt_ab", b"mutant", 1))
    run = run_experiment(workspace, FRAMES_EXPERIMENT)
    assert run.computed == ("embryo_metadata",)
    assert path.read_bytes() == good


def test_picture_of_a_set_that_is_lost_is_made_again(workspace: Workspace) -> None:
    before = read_artifacts(workspace, FRAMES_EXPERIMENT)
    folder = workspace.layout.folders("snips", experiment=FRAMES_EXPERIMENT)[2]
    next(folder.glob("*.png")).unlink()
    (folder / "stranger.png").write_bytes(b"")
    run = run_experiment(workspace, FRAMES_EXPERIMENT)
    assert run.computed == ("snips",)
    assert read_artifacts(workspace, FRAMES_EXPERIMENT) == before


def test_damaged_record_is_an_error_that_names_it(workspace: Workspace) -> None:
    record = workspace.layout.record(workspace.output("gdino_raw", experiment=FRAMES_EXPERIMENT))
    record.write_text("{}")
    with pytest.raises(PermanentError) as caught:
        run_experiment(workspace, FRAMES_EXPERIMENT)
    assert caught.value.where == str(record)
    assert "remove" in caught.value.remedy
