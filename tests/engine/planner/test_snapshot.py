from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from morphseq_dagster.cluster.attempt_folder import JobRoot
from morphseq_dagster.cluster.job_summary import summarise_jobs
from morphseq_dagster.engine.planner.snapshot import ArtifactStatus, find_recorded, take_snapshot
from morphseq_dagster.engine.storage.atomic_io import host_name
from morphseq_dagster.engine.storage.step_locks import hold_lock
from morphseq_dagster.engine.workspace import Workspace

EXP = "20240101"


def cells(workspace: Workspace, experiment: str = EXP) -> dict[str, ArtifactStatus]:
    (snapshot,) = take_snapshot(workspace, experiments=[experiment], remote=summarise_jobs(workspace.layout))
    return dict(snapshot.cells)


def states(workspace: Workspace) -> tuple[str, ...]:
    return tuple(cell.state for cell in cells(workspace).values())


def record_path(workspace: Workspace, step: str) -> Path:
    return workspace.layout.record(workspace.output(step, experiment=EXP))


def listing(root: Path) -> list[tuple[str, int, int, int, int]]:
    found = []
    for parent, folders, files in os.walk(root):
        for name in (*folders, *files):
            path = Path(parent) / name
            status = path.lstat()
            found.append((str(path), status.st_size, status.st_mtime_ns, status.st_ino, status.st_ctime_ns))
    return sorted(found)


def test_finished_experiment_is_ok_with_rows_and_time(workspace: Workspace, add: Callable, run: Callable) -> None:
    add(EXP)
    run(EXP)
    assert states(workspace) == ("ok", "ok", "ok")
    lengths = cells(workspace)["lengths"]
    assert lengths.rows == 2
    assert lengths.finished_at.startswith("20")


def test_what_waits_says_for_what(workspace: Workspace, add: Callable) -> None:
    add(EXP, words=None)
    found = cells(workspace)
    assert states(workspace) == ("missing", "missing", "missing")
    assert found["letters"].reason.startswith("waits for the input words: ")
    assert found["lengths"].reason == "waits for letters"


def test_failed_step_tells_its_error(workspace: Workspace, add: Callable, run: Callable) -> None:
    add(EXP, words={"A01": "fail", "A02": "fail"})
    run(EXP)
    run(EXP)
    letters = cells(workspace)["letters"]
    assert letters.state == "failed"
    assert "2 failed: A01" in letters.reason
    assert "tried 2 times" in letters.reason


def test_lost_well_makes_the_step_degraded_and_is_named(workspace: Workspace, add: Callable, run: Callable) -> None:
    add(EXP, words={"A01": "fish", "A02": "fail"})
    run(EXP)
    letters = cells(workspace)["letters"]
    assert letters.state == "degraded"
    assert letters.reason.startswith("1 of 2 wells failed: A02: ")


def test_unavailable_is_shown_as_published(workspace: Workspace, add: Callable, run: Callable) -> None:
    add(EXP)
    run(EXP)
    path = record_path(workspace, "summary")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"status": "unavailable", "warnings": ["no weights"]}))
    summary = cells(workspace)["summary"]
    assert (summary.state, summary.reason) == ("unavailable", "no weights")


def test_unreadable_record_is_an_error_and_hides_nothing_else(
    workspace: Workspace, add: Callable, run: Callable
) -> None:
    add(EXP)
    run(EXP)
    record_path(workspace, "letters").write_text('{"half": ')
    path = record_path(workspace, "lengths")
    path.unlink()
    path.mkdir()
    found = cells(workspace)
    assert (found["letters"].state, found["lengths"].state) == ("error", "error")
    assert found["summary"].state != "error"
    assert "letters_manifest" in found["letters"].reason
    assert found["lengths"].reason.startswith("IsADirectoryError")


def test_unreadable_failure_is_an_error_not_a_success(workspace: Workspace, add: Callable, run: Callable) -> None:
    add(EXP)
    run(EXP)
    workspace.layout.failure(workspace.output("summary", experiment=EXP)).write_text("?")
    assert cells(workspace)["summary"].state == "error"


def test_file_changed_outside_is_an_error(workspace: Workspace, add: Callable, run: Callable) -> None:
    add(EXP)
    run(EXP)
    table = workspace.output("lengths", experiment=EXP)
    table.write_text(table.read_text() + "B01,3,0.5\n")
    assert cells(workspace)["lengths"].state == "error"
    assert "changed outside" in cells(workspace)["lengths"].reason


def test_file_that_moved_to_another_disk_is_ok(workspace: Workspace, add: Callable, run: Callable) -> None:
    add(EXP)
    run(EXP)
    table = workspace.output("lengths", experiment=EXP)
    data = table.read_bytes()
    table.unlink()
    table.write_bytes(data)
    assert cells(workspace)["lengths"].state == "ok"


def test_lost_file_is_missing_and_a_file_without_record_is_an_error(
    workspace: Workspace, add: Callable, run: Callable
) -> None:
    add(EXP)
    run(EXP)
    workspace.output("lengths", experiment=EXP).unlink()
    record_path(workspace, "summary").unlink()
    found = cells(workspace)
    assert (found["lengths"].state, found["summary"].state) == ("missing", "error")
    assert "gone" in found["lengths"].reason
    assert "without its record" in found["summary"].reason


def test_step_at_work_is_running_and_names_its_holder(workspace: Workspace, add: Callable) -> None:
    add(EXP)
    with hold_lock(workspace.layout.lock("letters", experiment=EXP), run_id="abc"):
        letters = cells(workspace)["letters"]
    assert letters.state == "running"
    assert f"process {os.getpid()} on {host_name()}, run abc" in letters.reason


def test_job_that_ended_unseen_is_interrupted_unless_somebody_waits_for_it(workspace: Workspace, add: Callable) -> None:
    add(EXP)
    root = JobRoot(workspace.layout.jobs)
    attempt = root.attempt(("letters", EXP), key="ab" * 32, number=1)
    root.begin(attempt)
    attempt.write("job", job="7")
    assert (cells(workspace)["letters"].state, cells(workspace)["letters"].job) == ("queued", "7")
    attempt.write("end", job="7", rc=9, signal="", restart=0, t=0)
    letters = cells(workspace)["letters"]
    assert letters.state == "interrupted"
    assert letters.reason.startswith("job 7: ended with code 9")
    with hold_lock(workspace.layout.lock("letters", experiment=EXP), run_id="abc"):
        letters = cells(workspace)["letters"]
    assert letters.state == "running"
    assert "run abc" in letters.reason
    attempt.close(kind="failed")
    assert cells(workspace)["letters"].state == "missing"


def claim_of_a_dead_process(workspace: Workspace, step: str) -> None:
    path = workspace.layout.lock(step, experiment=EXP)
    with hold_lock(path, run_id="abc"):
        text = path.read_text()
    path.write_text(json.dumps(json.loads(text) | {"process_start": "1"}))


def test_claim_of_a_dead_process_is_interrupted_until_there_is_a_result(
    workspace: Workspace, add: Callable, run: Callable
) -> None:
    add(EXP)
    claim_of_a_dead_process(workspace, "letters")
    assert cells(workspace)["letters"].state == "interrupted"
    run(EXP)
    claim_of_a_dead_process(workspace, "letters")
    assert cells(workspace)["letters"].state == "ok"


def test_publication_that_was_cut_off_is_interrupted(workspace: Workspace, add: Callable, run: Callable) -> None:
    add(EXP)
    run(EXP)
    journal = workspace.layout.journal("letters", experiment=EXP)
    journal.parent.mkdir(exist_ok=True)
    journal.write_text("{}")
    assert cells(workspace)["letters"].state == "interrupted"


def test_unreadable_claim_is_an_error(workspace: Workspace, add: Callable) -> None:
    add(EXP)
    claim = workspace.layout.lock("letters", experiment=EXP)
    claim.parent.mkdir(parents=True)
    claim.write_text("?")
    assert cells(workspace)["letters"].state == "error"


@pytest.mark.parametrize("prepared", [False, True])
def test_reading_writes_not_a_byte(workspace: Workspace, add: Callable, run: Callable, prepared: bool) -> None:
    add(EXP)
    if prepared:
        run(EXP)
        claim_of_a_dead_process(workspace, "letters")
        workspace.layout.journal("lengths", experiment=EXP).write_text("{}")
    before = listing(workspace.data_root)
    take_snapshot(workspace, experiments=[EXP, "20240102"])
    find_recorded(workspace)
    assert listing(workspace.data_root) == before


def test_experiments_are_known_by_their_records_whole_names(workspace: Workspace, add: Callable, run: Callable) -> None:
    for name in (EXP, f"{EXP}_extras"):
        add(name)
        run(name)
    assert find_recorded(workspace) == (EXP, f"{EXP}_extras")
