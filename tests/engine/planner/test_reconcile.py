from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from morphseq_dagster.engine.layout import Layout
from morphseq_dagster.engine.planner.reconcile import Finding, Kind, find_departed, reconcile
from morphseq_dagster.engine.planner.reconcile_actions import discard, keep, refresh
from morphseq_dagster.engine.storage.file_lists import FileChange
from morphseq_dagster.engine.storage.hashing import hash_file
from morphseq_dagster.engine.storage.records import encode, read_record
from morphseq_dagster.engine.storage.step_locks import hold_lock
from morphseq_dagster.engine.workspace import Workspace
from morphseq_dagster.errors import ContractError, MorphseqError, PermanentError, TransientError
from morphseq_dagster.morphseq.paths import raw_folder
from morphseq_dagster.testing.chain import open_toy, run_chain, write_words
from tests.support.experiments import (
    FRAMES_EXPERIMENT,
    ChainRun,
    make_small_frames,
    open_data_root,
    read_artifacts,
    run_experiment,
)

TOY = "20240418"


@pytest.fixture
def toy(tmp_path: Path) -> Workspace:
    workspace = open_toy(tmp_path / "root")
    write_words(workspace.layout, TOY, words={"A01": "fish", "A02": "embryo"})
    run_chain(workspace, TOY)
    return workspace


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    workspace = open_data_root(tmp_path_factory.mktemp("finished") / "root")
    make_small_frames(workspace.data_root)
    run_experiment(workspace, FRAMES_EXPERIMENT)
    return workspace


@pytest.fixture
def fish(finished: Workspace, tmp_path: Path) -> Workspace:
    """A copy of the finished experiment that knows its own inodes."""
    shutil.copytree(finished.data_root, tmp_path / "root")
    workspace = open_data_root(tmp_path / "root")
    for finding in reconcile(workspace).findings:
        assert finding.kind is Kind.TOUCHED
        refresh(workspace, workspace.layout.absolute(finding.path))
    assert reconcile(workspace).findings == ()
    return workspace


def only(workspace: Workspace, **options: bool) -> Finding:
    (finding,) = reconcile(workspace, **options).findings
    return finding


def rerun(workspace: Workspace) -> ChainRun:
    return run_experiment(workspace, FRAMES_EXPERIMENT)


def replace(path: Path, data: bytes) -> None:
    """Write as editors do: another file under the old name."""
    other = path.with_name("other")
    other.write_bytes(data)
    other.rename(path)


def test_an_untouched_tree_has_no_findings(toy: Workspace) -> None:
    found = reconcile(toy, hash_all=True)
    assert (found.findings, found.checked, found.busy) == ((), 3, ())


def test_an_edit_in_place_and_a_replaced_file_are_told_apart(toy: Workspace) -> None:
    path = toy.output("lengths", experiment=TOY)
    data = path.read_bytes()
    path.write_bytes(data.replace(b"4", b"5"))
    assert only(toy).kind is Kind.EDITED
    replace(path, data.replace(b"4", b"6"))
    assert only(toy).kind is Kind.REPLACED
    replace(path, data)
    finding = only(toy)
    assert (finding.kind, finding.is_harmless) == (Kind.TOUCHED, True)


def test_a_file_that_lost_its_end_is_truncated_and_cannot_be_kept(toy: Workspace) -> None:
    path = toy.output("lengths", experiment=TOY)
    path.write_bytes(path.read_bytes()[:-3])
    finding = only(toy)
    assert (finding.kind, finding.actions) == (Kind.TRUNCATED, ("discard",))
    with pytest.raises(PermanentError, match="truncated"):
        keep(toy, path)


def test_a_deleted_row_is_an_edit_and_not_a_truncation(toy: Workspace) -> None:
    path = toy.output("lengths", experiment=TOY)
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-1]))
    assert only(toy).kind is Kind.EDITED


def test_a_deleted_file_is_found(toy: Workspace) -> None:
    path = toy.output("summary", experiment=TOY)
    path.unlink()
    assert only(toy).kind is Kind.DELETED
    run_chain(toy, TOY)
    assert reconcile(toy).findings == ()


def test_same_size_and_time_pass_unless_everything_is_hashed(toy: Workspace) -> None:
    path = toy.output("lengths", experiment=TOY)
    before = path.stat()
    data = path.read_bytes()
    with path.open("r+b") as handle:
        handle.write(data.replace(b"4", b"5"))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert reconcile(toy).findings == ()
    assert only(toy, hash_all=True).kind is Kind.EDITED


def test_a_file_without_record_and_a_damaged_record_are_findings(toy: Workspace) -> None:
    layout = toy.layout
    layout.record(toy.output("lengths", experiment=TOY)).unlink()
    record = layout.record(toy.output("summary", experiment=TOY))
    record.write_text("{}")
    kinds = {finding.step: finding for finding in reconcile(toy).findings}
    assert kinds["lengths"].kind is Kind.NO_RECORD
    assert kinds["summary"].kind is Kind.UNREADABLE_RECORD
    discard(toy, toy.output("summary", experiment=TOY))
    assert not record.exists()


def test_a_record_copied_from_another_experiment_is_an_orphan(toy: Workspace) -> None:
    layout, other = toy.layout, "20240419"
    source = toy.output("lengths", experiment=TOY)
    target = toy.output("lengths", experiment=other)
    shutil.copy(source, target)
    shutil.copy(layout.record(source), layout.record(target))
    finding = only(toy)
    assert (finding.kind, finding.experiment) == (Kind.ORPHAN_RECORD, other)
    discard(toy, target)
    assert not layout.record(target).exists()
    assert target.exists()


def test_what_is_at_work_is_left_out_and_named(toy: Workspace) -> None:
    path = toy.output("lengths", experiment=TOY)
    path.write_bytes(b"half")
    with hold_lock(toy.layout.lock("lengths", experiment=TOY), run_id="busy"):
        found = reconcile(toy)
        assert found.findings == ()
        assert [p for p, _ in found.busy] == [toy.layout.relative(path)]


def test_pruned_and_discarded_outputs_are_decided_and_no_findings(toy: Workspace) -> None:
    layout = toy.layout
    for step, condition in (("lengths", "pruned"), ("summary", "discarded")):
        primary = toy.output(step, experiment=TOY)
        record = read_record(layout, primary=primary)
        assert record is not None
        layout.record(primary).write_bytes(encode(record.model_copy(update={"condition": condition})))
        primary.unlink()
    assert reconcile(toy).findings == ()


def test_a_discarded_edit_is_computed_again(toy: Workspace) -> None:
    path = toy.output("lengths", experiment=TOY)
    before = path.read_bytes()
    path.write_bytes(before.replace(b"4", b"5"))
    discard(toy, path)
    assert reconcile(toy).findings == ()
    done = run_chain(toy, TOY)
    assert [step for step, (_, memo) in done.items() if not memo] == ["lengths"]
    assert path.read_bytes() == before


def test_a_kept_edit_makes_its_children_stale_and_survives_their_run(fish: Workspace) -> None:
    path = fish.output("sam2_metadata", experiment=FRAMES_EXPERIMENT)
    before = read_record(fish.layout, primary=path)
    assert before is not None
    lines = path.read_text().splitlines()
    header = lines[0].split(",")
    cells = lines[1].split(",")
    cells[header.index("mask_confidence")] = "0.5"
    path.write_text("\n".join([lines[0], ",".join(cells), *lines[2:]]) + "\n")
    edited = path.read_bytes()
    kept = keep(fish, path)
    assert kept.origin == "external_edit"
    assert kept.external_edit is not None
    assert kept.external_edit.before_sha256 == before.output.sha256
    assert (kept.inputs, kept.request_key) == (before.inputs, before.request_key)
    assert kept.data_version != before.data_version
    assert reconcile(fish, hash_all=True).findings == ()
    computed = rerun(fish).computed
    assert computed[0] == "embryo_metadata"
    assert "sam2_metadata" not in computed
    assert path.read_bytes() == edited
    assert rerun(fish).computed == ()


def test_a_kept_edit_that_was_touched_since_can_still_be_given_up(fish: Workspace) -> None:
    path = fish.output("qc_masks", experiment=FRAMES_EXPERIMENT)
    path.write_bytes(path.read_bytes().replace(b"no weights were given", b"the lab said so", 1))
    keep(fish, path)
    os.utime(path, (1, 1))
    assert discard(fish, path).detail == "an edit that was kept"


def test_a_kept_edit_can_be_given_up(fish: Workspace) -> None:
    path = fish.output("qc_masks", experiment=FRAMES_EXPERIMENT)
    before = path.read_bytes()
    path.write_bytes(before.replace(b"no weights were given", b"the lab said so", 1))
    keep(fish, path)
    discard(fish, path)
    assert "qc_masks" in rerun(fish).computed
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("step", "find", "put"),
    [
        ("sam2_metadata", b"mask_confidence", b"confidence"),
        ("gdino_detections", b'"box_xyxy"', b'"box"'),
        ("embryo_metadata", FRAMES_EXPERIMENT.encode(), b"20240418"),
    ],
)
def test_an_edit_that_breaks_the_contract_cannot_be_kept(fish: Workspace, step: str, find: bytes, put: bytes) -> None:
    path = fish.output(step, experiment=FRAMES_EXPERIMENT)
    record = fish.layout.record(path).read_bytes()
    path.write_bytes(path.read_bytes().replace(find, put))
    edited = path.read_bytes()
    with pytest.raises(ContractError):
        keep(fish, path)
    assert (path.read_bytes(), fish.layout.record(path).read_bytes()) == (edited, record)
    assert not list(path.parent.glob("*.tmp"))


def test_a_broken_mask_cannot_be_kept(fish: Workspace) -> None:
    path = fish.output("sam2_tracks", experiment=FRAMES_EXPERIMENT)
    text = path.read_text()
    counts = text.split('"counts": "')[1].split('"')[0]
    path.write_text(text.replace(counts, counts[:8] + counts[12:], 1))
    with pytest.raises(ContractError, match="1 problems"):
        keep(fish, path)


def test_pictures_of_a_set_are_named_one_by_one(fish: Workspace) -> None:
    folder = fish.layout.folders("organized_frames", experiment=FRAMES_EXPERIMENT)[0] / "images"
    first, second, third = sorted(folder.glob("*/*.jpg"))[:3]
    first.unlink()
    second.write_bytes(second.read_bytes()[:-100])
    (third.parent / "extra.jpg").write_bytes(third.read_bytes())
    finding = only(fish)
    assert (finding.kind, finding.actions) == (Kind.PICTURES, ("discard",))
    assert finding.detail == "1 truncated, 1 deleted, 1 added"
    changes = {Path(p.path).name: p.change for p in finding.pictures}
    assert changes == {first.name: FileChange.DELETED, second.name: FileChange.TRUNCATED, "extra.jpg": FileChange.ADDED}


def test_an_edited_picture_is_kept_with_a_new_manifest(fish: Workspace) -> None:
    frames = sorted((fish.layout.folders("ff_images", experiment=FRAMES_EXPERIMENT)[0]).glob("*.jpg"))
    old = read_record(fish.layout, primary=fish.output("ff_images", experiment=FRAMES_EXPERIMENT))
    frames[0].write_bytes(frames[1].read_bytes())
    assert only(fish).pictures[0].change is FileChange.EDITED
    kept = keep(fish, frames[0])
    assert old is not None
    assert kept.data_version != old.data_version
    assert reconcile(fish, hash_all=True).findings == ()
    assert rerun(fish).computed[:1] == ("built_metadata",)
    assert frames[0].read_bytes() == frames[1].read_bytes()


def test_a_picture_of_another_size_cannot_be_kept(fish: Workspace) -> None:
    import cv2

    frame = min(fish.layout.folders("ff_images", experiment=FRAMES_EXPERIMENT)[0].glob("*.jpg"))
    pixels = cv2.imread(str(frame), cv2.IMREAD_GRAYSCALE)
    assert pixels is not None
    assert cv2.imwrite(str(frame), pixels[:-8])
    with pytest.raises(ContractError, match="px"):
        keep(fish, frame)


@pytest.mark.parametrize("step", ["raw_manifest", "ff_images", "gdino_raw", "sam2_tracks", "snips", "embryo_metadata"])
@pytest.mark.parametrize("decided", [True, False])
def test_a_damaged_file_is_made_again_as_it_was(fish: Workspace, step: str, *, decided: bool) -> None:
    before = read_artifacts(fish, FRAMES_EXPERIMENT)
    path = fish.output(step, experiment=FRAMES_EXPERIMENT)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    if decided:
        discard(fish, path)
    run = rerun(fish)
    assert run.computed == (step,)
    assert read_artifacts(fish, FRAMES_EXPERIMENT) == before


def test_a_damaged_picture_is_never_taken_over_by_the_recompute(fish: Workspace) -> None:
    before = read_artifacts(fish, FRAMES_EXPERIMENT)
    frame = min(fish.layout.folders("organized_frames", experiment=FRAMES_EXPERIMENT)[0].glob("images/*/*.jpg"))
    frame.write_bytes(frame.read_bytes()[:-50])
    discard(fish, frame)
    assert rerun(fish).computed == ("organized_frames",)
    assert read_artifacts(fish, FRAMES_EXPERIMENT) == before


def test_nothing_to_do_is_refused_and_says_so(toy: Workspace) -> None:
    path = toy.output("lengths", experiment=TOY)
    for action in (keep, discard, refresh):
        with pytest.raises(PermanentError, match="as recorded"):
            action(toy, path)
    with pytest.raises(PermanentError, match="a file that the pipeline makes"):
        keep(toy, toy.data_root / "words" / "notes.txt")


def test_one_unreadable_artifact_does_not_end_the_report(toy: Workspace) -> None:
    # A manifest that is as recorded and none: only a defect of ours could publish it, and the others matter still.
    primary = toy.output("letters", experiment=TOY)
    primary.write_bytes(b"no manifest\n")
    record = read_record(toy.layout, primary=primary)
    assert record is not None
    output = record.output.model_copy(update={"sha256": hash_file(primary)})
    toy.layout.record(primary).write_bytes(encode(record.model_copy(update={"output": output})))
    toy.output("summary", experiment=TOY).unlink()
    assert [finding.kind for finding in reconcile(toy).findings] == [Kind.UNREADABLE, Kind.DELETED]


def test_a_live_holder_is_not_disturbed(toy: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("morphseq_dagster.engine.planner.reconcile_actions._PATIENCE_S", 0.0)
    path = toy.output("lengths", experiment=TOY)
    path.write_bytes(b"edited\n")
    with hold_lock(toy.layout.lock("lengths", experiment=TOY), run_id="busy"), pytest.raises(TransientError):
        discard(toy, path)


def test_a_publication_that_was_cut_off_is_left_to_the_next_run(toy: Workspace) -> None:
    path = toy.output("lengths", experiment=TOY)
    path.write_bytes(b"edited\n")
    assert [finding.step for finding in reconcile(toy).findings] == ["lengths"]
    journal = toy.layout.journal("lengths", experiment=TOY)
    journal.parent.mkdir(exist_ok=True)
    journal.write_text("{}")
    found = reconcile(toy)
    assert (found.findings, found.checked) == ((), 2)
    assert found.busy == ((toy.layout.relative(path), "its publication was cut off; the next run finishes it"),)


def test_departed_experiments_are_counted(toy: Workspace) -> None:
    raw_folder(toy.layout, "Frames", experiment=TOY).mkdir(parents=True)
    assert find_departed(toy) == {}
    raw_folder(toy.layout, "Frames", experiment=TOY).rmdir()
    assert find_departed(toy) == {TOY: 3}


def test_reporting_writes_nothing(fish: Workspace) -> None:
    def state(layout: Layout) -> dict[str, tuple[int, int]]:
        files = (path for path in layout.data_root.rglob("*") if path.is_file())
        return {str(p): (p.stat().st_mtime_ns, p.stat().st_ino) for p in files}

    fish.output("gdino_raw", experiment=FRAMES_EXPERIMENT).write_bytes(b"{}\n")
    before = state(fish.layout)
    with pytest.raises(MorphseqError):
        keep(fish, fish.output("gdino_raw", experiment=FRAMES_EXPERIMENT))
    before = state(fish.layout)
    reconcile(fish, hash_all=True)
    assert state(fish.layout) == before
