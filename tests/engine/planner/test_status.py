from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from morphseq_dagster.engine.planner.status import (
    SCHEMA,
    SCHEMA_VERSION,
    choose_columns,
    encode_status,
    read_status,
)
from morphseq_dagster.engine.workspace import Workspace
from morphseq_dagster.errors import PermanentError
from morphseq_dagster.morphseq.paths import raw_folder, raw_root
from morphseq_dagster.morphseq.pipeline import MORPHSEQ

HEAVY = ("dagster", "pandas", "numpy", "scipy", "cv2", "skimage", "pandera", "rich")


def test_columns_are_those_of_the_lab_in_their_order() -> None:
    words = "RAW META FF QC EXPMETA GDINO SEG SAM2-SEG PNG CSV B03 B04 LAT B06"
    columns = choose_columns(MORPHSEQ)
    assert list(columns) == words.split()
    assert (columns["QC"], columns["SAM2-SEG"]) == ("qc_masks", "sam2_segmentations")
    assert set(columns.values()) <= {spec.name for spec in MORPHSEQ.steps}


def test_rows_are_raw_folders_and_whatever_has_records(workspace: Workspace, add: Callable, run: Callable) -> None:
    for name in ("20240101", "20240102"):
        add(name)
    run("20240101")
    raw_folder(workspace.layout, "Frames", experiment="20240101").rename(workspace.data_root / "archived")
    (raw_root(workspace.layout) / "Frames" / "notes here").mkdir()
    status = read_status(workspace)
    assert [(row.experiment, row.kind) for row in status.rows] == [("20240101", ""), ("20240102", "Frames")]
    assert [name for name, _ in status.refused] == ["notes here"]
    assert status.total("SUMMARY") == {"ok": 1, "missing": 1}


def test_unknown_experiments_are_all_named(workspace: Workspace, add: Callable) -> None:
    add("20240101_extras")
    with pytest.raises(PermanentError, match=r"'20240101'.*'/etc'"):
        read_status(workspace, experiments=["20240101", "20240101_extras", "/etc"])


def test_broken_experiment_leaves_the_others_alone(workspace: Workspace, add: Callable, run: Callable) -> None:
    for name in ("20240101", "20240102"):
        add(name)
        run(name)
    workspace.layout.record(workspace.output("lengths", experiment="20240101")).write_text("?")
    status = read_status(workspace)
    assert [cell.state for cell in status.rows[1].cells.values()] == ["ok", "ok", "ok"]
    assert [(name, cell.step) for name, cell in status.unreadable] == [("20240101", "lengths")]


def test_json_form_is_versioned_and_plain(workspace: Workspace, add: Callable, run: Callable) -> None:
    add("20240101")
    run("20240101")
    values = json.loads(json.dumps(encode_status(read_status(workspace), data_root="/data")))
    assert (values["schema"], values["version"], values["data_root"]) == (SCHEMA, SCHEMA_VERSION, "/data")
    assert values["experiments"]["20240101"]["columns"] == {"LETTERS": "ok", "LENGTHS": "ok", "SUMMARY": "ok"}
    assert values["experiments"]["20240101"]["steps"]["letters"]["state"] == "ok"
    assert values["totals"]["LETTERS"] == {"ok": 1}
    assert values["unreadable"] == []


def raw_cell(root: Path, experiment: str) -> tuple[str, str]:
    (row,) = read_status(Workspace(root, MORPHSEQ), experiments=[experiment]).rows
    return row.columns["RAW"].state, row.columns["RAW"].reason


def test_raw_is_ok_as_soon_as_raw_files_are_there(tmp_path: Path) -> None:
    folder = tmp_path / "raw_image_data" / "Keyence" / "20240101"
    folder.mkdir(parents=True)
    assert raw_cell(tmp_path, "20240101") == ("missing", "the raw folder is empty")
    (folder / "a.tif").touch()
    assert raw_cell(tmp_path, "20240101") == ("ok", "not listed yet")
    (tmp_path / "raw_image_data" / "YX1" / "20240101").mkdir(parents=True)
    assert raw_cell(tmp_path, "20240101")[0] == "error"


def test_other_latent_model_is_looked_at_by_name_and_broken_recipe_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "raw_image_data" / "Keyence" / "20240101").mkdir(parents=True)
    latents = Workspace(tmp_path, MORPHSEQ).layout.primary("latents", experiment="20240101", variant="other")
    latents.parent.mkdir(parents=True)
    latents.touch()
    workspace = Workspace(tmp_path, MORPHSEQ)
    assert read_status(workspace).rows[0].columns["LAT"].state == "missing"
    assert "without its record" in read_status(workspace, model="other").rows[0].columns["LAT"].reason
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "20240101.toml").write_text("[latents\n")
    row = read_status(workspace).rows[0]
    assert row.columns["LAT"].state == "error"
    assert "20240101.toml" in row.columns["LAT"].reason
    assert row.columns["FF"].state == "missing"


def test_status_imports_nothing_heavy(tmp_path: Path) -> None:
    (tmp_path / "raw_image_data" / "Keyence" / "20240101").mkdir(parents=True)
    code = (
        "import sys; from morphseq_dagster.cli import main; "
        f"code = main(['status', '--data-root', {str(tmp_path)!r}]); "
        f"print([name for name in {HEAVY!r} if name in sys.modules], code)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.splitlines()[-1] == "[] 0"
