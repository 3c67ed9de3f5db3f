"""Bad workbooks, references and recipes: as for the pictures and tables in `test_bad_input.py`."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import openpyxl
import pytest

from morphseq_dagster.engine.workspace import Workspace
from morphseq_dagster.errors import PermanentError
from morphseq_dagster.morphseq import paths
from morphseq_dagster.morphseq.paths import curation
from tests.support.broken_runs import assert_mended, empty, run_broken, scribble, truncate
from tests.support.experiments import (
    FRAMES_EXPERIMENT,
    edit_workbook,
    make_small_frames,
    open_data_root,
    read_artifacts,
    run_experiment,
    workbook_path,
)

AFTER_PLATE = ("built_metadata", "experiment_metadata", "sam2_metadata", "embryo_metadata", "qc_staged")
TABLES = (*AFTER_PLATE, "embryo_latents_final")


@pytest.fixture
def workspace(frames_root: Path) -> Workspace:
    return open_data_root(frames_root)


# the workbook


def drop_sheet(path: Path, name: str) -> None:
    book = openpyxl.load_workbook(path)
    del book[name]
    book.save(path)


def write_text_headings(path: Path) -> None:
    book = openpyxl.load_workbook(path)
    for sheet in book.worksheets:
        for column in range(2, 14):
            sheet.cell(row=1, column=column).value = str(column - 1)
    book.save(path)


WORKBOOK_CASES: dict[str, tuple[Callable[[Path], None], str, tuple[str, ...]]] = {
    # damage, step that fails, words
    "gone": (Path.unlink, "plate_metadata", (f"{FRAMES_EXPERIMENT}_well_metadata.xlsx",)),
    "truncated": (truncate, "plate_metadata", ("cannot be read as a workbook",)),
    "zero bytes": (empty, "plate_metadata", ("cannot be read as a workbook",)),
    "no workbook": (scribble, "plate_metadata", ("cannot be read as a workbook",)),
    "error value": (
        lambda path: edit_workbook(path, sheet="temperature", well="A02", value="#REF!"),
        "plate_metadata",
        ("sheet 'temperature' cell C2", "#REF!"),
    ),
    "text for a number": (
        lambda path: edit_workbook(path, sheet="temperature", well="A02", value="28,5"),
        "plate_metadata",
        ("sheet 'temperature' cell C2", "28,5"),
    ),
    "blank start age": (
        lambda path: edit_workbook(path, sheet="start_age_hpf", well="A02", value=None),
        "built_metadata",
        ("start_age_hpf is blank for A02",),
    ),
    "blank temperature": (
        lambda path: edit_workbook(path, sheet="temperature", well="A01", value=None),
        "built_metadata",
        ("temperature is blank for A01",),
    ),
    "temperature sheet missing": (
        lambda path: drop_sheet(path, "temperature"),
        "built_metadata",
        ("temperature is blank for A01, A02, A03",),
    ),
}


@pytest.mark.parametrize("case", WORKBOOK_CASES)
def test_unusable_workbook_stops_tables_only(workspace: Workspace, finished_frames: Path, case: str) -> None:
    damage, step, words = WORKBOOK_CASES[case]
    book = workbook_path(workspace.data_root, FRAMES_EXPERIMENT)
    good = book.read_bytes()
    damage(book)
    error, run = run_broken(workspace, step)
    assert all(word in str(error) for word in words), str(error)
    assert FRAMES_EXPERIMENT in str(error)
    assert set(run.blocked) == set(TABLES) - {step}
    book.write_bytes(good)
    assert_mended(workspace, finished_frames)


def test_missing_workbook_of_a_new_experiment_leaves_frames_detection_masks_and_latents(tmp_path: Path) -> None:
    data_root = tmp_path / "root"
    make_small_frames(data_root)
    workbook_path(data_root, FRAMES_EXPERIMENT).unlink()
    run = run_experiment(open_data_root(data_root), FRAMES_EXPERIMENT, keep_going=True)
    assert list(run.errors) == ["plate_metadata"]
    assert {"ff_images", "gdino_detections", "sam2_tracks", "exported_masks", "snips", "latents"} <= set(run.computed)


def test_well_with_pictures_but_no_row_is_named(workspace: Workspace) -> None:
    book = workbook_path(workspace.data_root, FRAMES_EXPERIMENT)
    for sheet in openpyxl.load_workbook(book).sheetnames:
        edit_workbook(book, sheet=sheet, well="A03", value=None)
    error, _ = run_broken(workspace, "built_metadata")
    assert error.found == "start_age_hpf is blank for A03; temperature is blank for A03"


def test_headings_written_as_text_are_read_like_numbers(workspace: Workspace) -> None:
    before = read_artifacts(workspace, FRAMES_EXPERIMENT)
    write_text_headings(workbook_path(workspace.data_root, FRAMES_EXPERIMENT))
    run = run_experiment(workspace, FRAMES_EXPERIMENT)
    assert run.computed == ("plate_metadata",), "another file with the same table stops there"
    assert read_artifacts(workspace, FRAMES_EXPERIMENT) == before


def test_two_workbooks_that_could_be_meant_are_both_named(workspace: Workspace) -> None:
    book = workbook_path(workspace.data_root, FRAMES_EXPERIMENT)
    for suffix in ("_old", "_new"):
        shutil.copyfile(book, book.with_name(f"{FRAMES_EXPERIMENT}_well_metadata{suffix}.xlsx"))
    book.unlink()
    error, _ = run_broken(workspace, "plate_metadata")
    assert "_well_metadata_old.xlsx" in error.found
    assert "_well_metadata_new.xlsx" in error.found


# what people and labs supply beside the acquisition


@pytest.mark.parametrize(
    ("place", "content", "step"),
    [
        ("perturbation_key", b"master,phenotype\nwt,wt\n", "embryo_metadata"),
        ("curation", b"snip_id,column,value,reason\nnobody,dead_flag,true,x\n", "embryo_metadata"),
        ("area_reference", b"stage_hpf,p5\n1,2\n", "qc_staged"),
        ("stage_reference", b"sa_um\n1\n", "qc_staged"),
    ],
)
def test_unusable_reference_is_named_and_its_removal_mends(
    workspace: Workspace, finished_frames: Path, place: str, content: bytes, step: str
) -> None:
    layout = workspace.layout
    path = curation(layout, FRAMES_EXPERIMENT) if place == "curation" else getattr(paths, place)(layout)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    error, _ = run_broken(workspace, step)
    assert str(path) in error.where
    path.unlink()
    assert_mended(workspace, finished_frames)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[gdino_detections]\nconfidence_treshold = 0.4\n", "confidence_threshold"),
        ("[gdino_detections]\nconfidence_threshold = 4\n", "gdino_detections.confidence_threshold"),
        ("[gdino]\n", "unknown section [gdino]"),
        ("[gdino_detections\n", "TOML"),
    ],
    ids=["unknown name", "wrong value", "unknown section", "broken file"],
)
def test_unusable_recipe_is_refused_before_anything_runs(workspace: Workspace, text: str, words: str) -> None:
    recipe = workspace.layout.recipes(FRAMES_EXPERIMENT)[1]
    before = read_artifacts(workspace, FRAMES_EXPERIMENT)
    recipe.parent.mkdir()
    recipe.write_text(text)
    with pytest.raises(PermanentError) as caught:
        run_experiment(workspace, FRAMES_EXPERIMENT)
    assert words in str(caught.value)
    assert str(recipe) in str(caught.value)
    recipe.unlink()
    assert read_artifacts(workspace, FRAMES_EXPERIMENT) == before
