"""Bad input of single pictures and tables: a clear error that names file and remedy, and nothing good is lost.

Every case damages an input of a finished experiment, runs it again, and looks at the error, at what was published
before, at the other wells and at a second experiment; then it mends the input and wants the first result back.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import openpyxl
import pytest

from morphseq_dagster.engine.workspace import Workspace
from morphseq_dagster.errors import MorphseqError, PermanentError
from morphseq_dagster.morphseq.paths import curation, raw_folder
from tests.support.experiments import (
    FRAMES_EXPERIMENT,
    STEPS,
    ChainRun,
    edit_workbook,
    make_small_frames,
    open_data_root,
    read_artifacts,
    run_experiment,
    workbook_path,
)

AFTER_PLATE = ("built_metadata", "experiment_metadata", "sam2_metadata", "embryo_metadata", "qc_staged")
TABLES = (*AFTER_PLATE, "embryo_latents_final")
AFTER_FRAMES = tuple(step for step in STEPS if step not in ("raw_manifest", "plate_metadata", "ff_images"))


@pytest.fixture
def workspace(frames_root: Path) -> Workspace:
    return open_data_root(frames_root)


def folder_of(workspace: Workspace) -> Path:
    return raw_folder(workspace.layout, "Frames", experiment=FRAMES_EXPERIMENT)


def run_broken(workspace: Workspace, step: str) -> tuple[MorphseqError, ChainRun]:
    """Run with a damaged input; the named step must fail as a user's error with its four parts, and alone."""
    before = read_artifacts(workspace, FRAMES_EXPERIMENT)
    run = run_experiment(workspace, FRAMES_EXPERIMENT, keep_going=True)
    assert list(run.errors) == [step], {name: str(error) for name, error in run.errors.items()}
    error = run.errors[step]
    assert isinstance(error, PermanentError)
    assert all((error.expected, error.found, error.where, error.remedy))
    after = read_artifacts(workspace, FRAMES_EXPERIMENT)
    replaced = {run.records[name].output.path for name in run.computed}
    lost = {name for name in before if before[name] != after.get(name)} - replaced
    assert lost == set(), "what was published before stands"
    return error, run


def run_degraded(workspace: Workspace) -> ChainRun:
    """Run with a damaged input that costs a part only: every step succeeds, `ff_images` says what is lost."""
    run = run_experiment(workspace, FRAMES_EXPERIMENT)
    assert run.records["ff_images"].status == "degraded"
    return run


def assert_mended(workspace: Workspace, finished_frames: Path) -> None:
    """With the input mended, the next run gives what the undamaged experiment gave."""
    run_experiment(workspace, FRAMES_EXPERIMENT)
    first = read_artifacts(open_data_root(finished_frames), FRAMES_EXPERIMENT)
    now = read_artifacts(workspace, FRAMES_EXPERIMENT)
    # A raw file that was changed and restored has a line of its own in the keys, hence another run id.
    differ = {name for name in first.keys() | now.keys() if first.get(name) != now.get(name)}
    assert differ == set()


# the table of frames

TABLE_CASES: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "empty": (lambda data: b"", "an empty table"),
    "no text": (lambda data: b"\xff\xfe\x00" + data, "not UTF-8"),
    "columns missing": (
        lambda data: b"\n".join(b",".join(line.split(b",")[:3]) for line in data.splitlines()),
        "column path missing; column um_per_px missing",
    ),
    "heading only": (lambda data: data.splitlines()[0] + b"\n", "nothing usable"),
    "open quote": (lambda data: data.replace(b"A01,0", b'"A01,0', 1), "broken comma-separated text"),
}


@pytest.mark.parametrize("case", TABLE_CASES)
def test_unusable_table_of_frames(workspace: Workspace, finished_frames: Path, case: str) -> None:
    damage, words = TABLE_CASES[case]
    table = folder_of(workspace) / "frames.csv"
    good = table.read_bytes()
    table.write_bytes(damage(good))
    error, run = run_broken(workspace, "ff_images")
    assert words in error.found
    assert str(table) in error.where
    assert set(run.blocked) == set(AFTER_FRAMES)
    table.write_bytes(good)
    assert_mended(workspace, finished_frames)


def test_missing_table_of_frames(workspace: Workspace) -> None:
    (folder_of(workspace) / "frames.csv").unlink()
    error, _ = run_broken(workspace, "ff_images")
    assert error.where.endswith("frames.csv")


def with_row(data: bytes, row: str) -> bytes:
    return data.rstrip(b"\n") + b"\n" + row.encode() + b"\n"


ROW_CASES: dict[str, tuple[Callable[[bytes], bytes], str, str, int]] = {
    # damage, what is found, where, frames that remain
    "second row for a well and time": (
        lambda data: with_row(data, "A01,0,0,A01_t0001.png,6.5"),
        "well A01 time_int 0 channel 0 2 times",
        "frames.csv lines 2, 11",
        8,
    ),
    "path out of the folder": (
        lambda data: with_row(data, "B01,0,0,../20250529_other/A01_t0000.png,6.5"),
        "a path that leaves the folder '../20250529_other/A01_t0000.png'",
        "frames.csv line 11",
        9,
    ),
    "absolute path": (
        lambda data: with_row(data, "B01,0,0,/etc/hostname,6.5"),
        "an absolute path '/etc/hostname'",
        "frames.csv line 11",
        9,
    ),
    "picture that is not there": (
        lambda data: with_row(data, "B01,0,0,B01_t0000.png,6.5"),
        "B01_t0000.png",
        "frames.csv line 11",
        9,
    ),
    "no well": (lambda data: with_row(data, "I13,0,0,A01_t0000.png,6.5"), "well 'I13'", "frames.csv line 11", 9),
    "text for a number": (
        lambda data: with_row(data, "B01,first,soon,A01_t0000.png,wide"),
        "time_int 'first'",
        "frames.csv line 11",
        9,
    ),
    "negative pixel size": (
        lambda data: with_row(data, "B01,0,0,A01_t0000.png,-6.5"),
        "um_per_px -6.5",
        "frames.csv line 11",
        9,
    ),
    "cells missing": (lambda data: with_row(data, "B01,0,0"), "3 cells", "frames.csv line 11", 9),
    "blank path": (lambda data: with_row(data, "B01,0,0,,6.5"), "a blank path", "frames.csv line 11", 9),
}


@pytest.mark.parametrize("case", ROW_CASES)
def test_row_that_cannot_be_used_is_named_and_left_out(workspace: Workspace, finished_frames: Path, case: str) -> None:
    damage, found, where, frames = ROW_CASES[case]
    table = folder_of(workspace) / "frames.csv"
    good = table.read_bytes()
    table.write_bytes(damage(good))
    record = run_degraded(workspace).records["ff_images"]
    assert record.counts["frames"] == frames
    (warning, *_) = [text for text in record.warnings if where in text]
    assert any(found in text for text in record.warnings)
    assert "Remedy: " in warning
    table.write_bytes(good)
    assert_mended(workspace, finished_frames)


def test_link_that_leads_out_of_the_folder_is_not_followed(workspace: Workspace, tmp_path: Path) -> None:
    secret = tmp_path / "secret.png"
    shutil.copyfile(folder_of(workspace) / "A01_t0000.png", secret)
    (folder_of(workspace) / "B01.png").symlink_to(secret)
    table = folder_of(workspace) / "frames.csv"
    table.write_bytes(with_row(table.read_bytes(), "B01,0,0,B01.png,6.5"))
    record = run_degraded(workspace).records["ff_images"]
    assert any("a link that leaves the folder 'B01.png'" in text for text in record.warnings)


# pictures


def truncate(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def colour(path: Path) -> None:
    grey = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
    assert grey is not None
    cv2.imwrite(str(path), cv2.merge([grey, grey // 2, grey // 3]))


def resize(path: Path) -> None:
    grey = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
    assert grey is not None
    cv2.imwrite(str(path), grey[:300])


def deepen(path: Path) -> None:
    grey = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
    assert grey is not None
    cv2.imwrite(str(path), grey.astype(np.uint16) * 257)


def scribble(path: Path) -> None:
    path.write_bytes(b"this is no picture at all")


PICTURE_CASES: dict[str, tuple[Callable[[Path], None], str]] = {
    "truncated": (truncate, "A02_t0001.png"),
    "zero bytes": (empty, "A02_t0001.png"),
    "colour": (colour, "A02_t0001.png"),
    "another size": (resize, "A02_t0001.png"),
    "sixteen bits among eight": (deepen, "A02_t0001.png"),
    "no picture": (scribble, "A02_t0001.png"),
    "gone": (Path.unlink, "A02_t0001.png"),
}


@pytest.mark.parametrize("case", PICTURE_CASES)
def test_picture_that_cannot_be_used_costs_its_frame_or_well_alone(
    workspace: Workspace, finished_frames: Path, case: str
) -> None:
    damage, name = PICTURE_CASES[case]
    picture = folder_of(workspace) / name
    good = picture.read_bytes()
    damage(picture)
    run = run_degraded(workspace)
    record = run.records["ff_images"]
    reasons = [*record.warnings, *(state.reason for state in record.wells.values())]
    (reason, *_) = [text for text in reasons if name in text]
    assert "expected" in reason
    assert "found" in reason
    assert "Remedy: " in reason
    assert run.wells_computed()["ff_images"] == 1, "the other wells are taken as they are"
    final = read_artifacts(workspace, FRAMES_EXPERIMENT)[
        f"metadata/build06/per_experiment/embryo_latents_final_{FRAMES_EXPERIMENT}.csv"
    ].decode()
    assert final.count(f"\n{FRAMES_EXPERIMENT}_A01_") == 3
    assert f"{FRAMES_EXPERIMENT}_A02_e01_t0001" not in final
    picture.write_bytes(good)
    assert_mended(workspace, finished_frames)


def test_every_picture_damaged_fails_the_step_naming_all(workspace: Workspace) -> None:
    for picture in folder_of(workspace).glob("*.png"):
        truncate(picture)
    error, run = run_broken(workspace, "ff_images")
    for well in ("A01", "A02", "A03"):
        assert f"{well}: " in error.found
    assert "A03_t0000.png" in error.found
    assert set(run.blocked) == set(AFTER_FRAMES)


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
    path = curation(layout, FRAMES_EXPERIMENT) if place == "curation" else getattr(layout, place)
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
