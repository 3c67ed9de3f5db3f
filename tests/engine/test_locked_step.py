"""Sessions: when a step runs, when nothing changed, and what a failure leaves behind."""

from __future__ import annotations

import errno
import multiprocessing
import os
from dataclasses import replace
from pathlib import Path

import pytest

from morphseq_dagster.engine.executors.execution import verify
from morphseq_dagster.engine.executors.local import LocalExecutor
from morphseq_dagster.engine.executors.protocol import Committed, Executed
from morphseq_dagster.engine.locked_step import (
    discard_unpublished,
    find_answer,
    finish,
    lock_step,
)
from morphseq_dagster.engine.storage import commit as commit_module
from morphseq_dagster.engine.storage.commit import is_interrupted
from morphseq_dagster.engine.storage.records import MAX_WELL_TRIES, Failure, Record, encode, read_failure, read_record
from morphseq_dagster.engine.storage.step_locks import read_lock
from morphseq_dagster.engine.workspace import Workspace
from morphseq_dagster.errors import MorphseqError, PermanentError, TransientError
from morphseq_dagster.testing.chain import open_toy, run_chain, write_words

EXPERIMENT = "20240418"
STEPS = ("letters", "lengths", "summary")


def ran(workspace: Workspace, **options: bool) -> list[str]:
    """Run the chain; name the steps that computed."""
    return [name for name, (_, memo) in run_chain(workspace, EXPERIMENT, **options).items() if not memo]


def failure(workspace: Workspace, step: str) -> Failure | None:
    return read_failure(
        workspace.layout, primary=workspace.output(workspace.pipeline.spec(step), experiment=EXPERIMENT)
    )


def record(workspace: Workspace, step: str) -> Record:
    found = read_record(
        workspace.layout, primary=workspace.output(workspace.pipeline.spec(step), experiment=EXPERIMENT)
    )
    assert found is not None
    return found


def published(root: Path) -> dict[str, bytes]:
    """All published bytes without records and working files."""
    return {
        p.relative_to(root).as_posix(): p.read_bytes()
        for p in sorted(root.rglob("*"))
        if p.is_file() and ".morphseq" not in p.parts and not p.name.endswith((".provenance.json", ".failure.json"))
    }


def test_second_run_computes_nothing_and_writes_nothing(workspace: Workspace) -> None:
    assert ran(workspace) == list(STEPS)
    before = {p: p.stat().st_mtime_ns for p in workspace.data_root.rglob("*") if ".morphseq" not in p.parts}
    assert ran(workspace) == []
    assert {p: p.stat().st_mtime_ns for p in before} == before


def test_force_computes_and_gives_the_same_versions(workspace: Workspace) -> None:
    ran(workspace)
    before = {step: record(workspace, step) for step in STEPS}
    assert ran(workspace, force=True) == list(STEPS)
    for step in STEPS:
        assert record(workspace, step).data_version == before[step].data_version
        assert record(workspace, step).started_at >= before[step].finished_at


def test_change_runs_what_it_touches_and_equal_bytes_stop_it(workspace: Workspace) -> None:
    ran(workspace)
    write_words(workspace.layout, EXPERIMENT, words={"A01": "fish", "A02": "fan"})
    # Other letters, same lengths: the table has the same bytes, so the summary stands.
    assert ran(workspace) == ["letters", "lengths"]
    write_words(workspace.layout, EXPERIMENT, words={"A01": "fish", "A02": "fins"})
    assert ran(workspace) == list(STEPS)


@pytest.mark.parametrize("step", STEPS)
def test_lost_or_changed_output_is_made_again(workspace: Workspace, step: str) -> None:
    ran(workspace)
    good = published(workspace.data_root)
    path = workspace.layout.absolute(record(workspace, step).output.path)
    path.write_bytes(path.read_bytes() + b" ")
    assert ran(workspace) == [step]
    path.unlink()
    assert ran(workspace) == [step]
    assert published(workspace.data_root) == good


def test_other_data_root_gives_the_same_bytes_and_versions(workspace: Workspace, tmp_path: Path) -> None:
    other = open_toy(tmp_path / "a longer name" / "räume")
    write_words(other.layout, EXPERIMENT, words={"A01": "fish", "A02": "fin"})
    ran(workspace)
    ran(other)
    assert published(other.data_root) == published(workspace.data_root)
    for step in STEPS:
        assert record(other, step).request_key == record(workspace, step).request_key
        assert record(other, step).data_version == record(workspace, step).data_version
        assert str(tmp_path) not in record(other, step).model_dump_json()


def test_moved_data_root_has_nothing_to_compute(workspace: Workspace, tmp_path: Path) -> None:
    import shutil

    ran(workspace)
    shutil.copytree(workspace.data_root, tmp_path / "copy")
    assert ran(open_toy(tmp_path / "copy")) == []


def test_failing_step_is_recorded_once_and_success_clears_it(workspace: Workspace) -> None:
    write_words(workspace.layout, EXPERIMENT, words={"A01": "fail", "A02": "fail", "A03": "fin"})
    for tries in (1, 2):
        with pytest.raises(PermanentError):
            ran(workspace)
        told = failure(workspace, "letters")
        assert told is not None
        assert (told.tries, told.error.kind, told.step) == (tries, "permanent", "letters")
        assert "A01" in told.error.found
    write_words(workspace.layout, EXPERIMENT, words={"A01": "fish", "A02": "fin"})
    assert ran(workspace) == list(STEPS)
    assert failure(workspace, "letters") is None


def test_going_back_to_what_is_published_forgets_the_failed_attempt_and_its_checkpoints(workspace: Workspace) -> None:
    ran(workspace)
    write_words(workspace.layout, EXPERIMENT, words={"A01": "new", "A02": "fail", "A03": "fail"})
    with pytest.raises(PermanentError):
        ran(workspace)
    checkpoints = workspace.layout.checkpoints("letters", experiment=EXPERIMENT)
    assert [p.name for p in checkpoints.iterdir()] == ["A01"]
    assert failure(workspace, "letters") is not None
    write_words(workspace.layout, EXPERIMENT, words={"A01": "fish", "A02": "fin"})
    assert ran(workspace) == []
    assert failure(workspace, "letters") is None
    assert not checkpoints.exists()


def test_missing_input_is_recorded_as_the_failure_of_the_step(workspace: Workspace) -> None:
    (workspace.data_root / "words" / f"{EXPERIMENT}.txt").unlink()
    with pytest.raises(PermanentError):
        ran(workspace)
    told = failure(workspace, "letters")
    assert told is not None
    assert told.error.where.endswith(f"{EXPERIMENT}.txt")


def test_claim_is_released_after_success_failure_and_break(workspace: Workspace) -> None:
    spec = workspace.pipeline.spec("letters")
    claim = workspace.layout.lock("letters", experiment=EXPERIMENT)
    ran(workspace)
    assert read_lock(claim) is None
    seen = []

    def work() -> None:
        with lock_step(spec, workspace=workspace, experiment=EXPERIMENT, run_id="r"):
            seen.append(read_lock(claim))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        work()
    assert seen[0] is not None
    assert read_lock(claim) is None


@pytest.mark.parametrize("name", ["../x", "20240418/../x", "a", "", "20240418_A01", "20240418; rm"])
def test_name_that_is_no_experiment_touches_no_file(workspace: Workspace, name: str) -> None:
    before = sorted(workspace.data_root.parent.rglob("*"))
    with (
        pytest.raises(PermanentError, match="experiment"),
        lock_step(workspace.pipeline.spec("letters"), workspace=workspace, experiment=name, run_id="r"),
    ):
        pytest.fail("the session was opened")
    assert sorted(workspace.data_root.parent.rglob("*")) == before


def test_full_disk_is_told_with_its_remedy_and_finished_wells_stay(workspace: Workspace) -> None:
    write_words(workspace.layout, EXPERIMENT, words={"A01": "fish", "A02": "full", "A03": "fin"})
    with pytest.raises(TransientError, match="free space"):
        ran(workspace)
    told = failure(workspace, "letters")
    assert told is not None
    assert told.error.kind == "transient"
    assert [p.name for p in workspace.layout.checkpoints("letters", experiment=EXPERIMENT).iterdir()] == ["A01"]


def test_transient_well_keeps_the_step_stale_for_a_stated_number_of_tries(workspace: Workspace) -> None:
    write_words(workspace.layout, EXPERIMENT, words={"A01": "fish", "A02": "busy", "A03": "fin"})
    assert ran(workspace) == list(STEPS)
    assert record(workspace, "letters").status == "degraded"
    for tries in range(2, MAX_WELL_TRIES + 1):
        assert ran(workspace) == ["letters"], "equal bytes: nothing downstream"
        assert record(workspace, "letters").wells["A02"].tries == tries
        assert record(workspace, "letters").counts["computed"] == 1
    assert ran(workspace) == []
    assert ran(workspace, force=True) == list(STEPS)


@pytest.mark.parametrize("words", [{"A01": "fish"}, {"A01": "fish", "A02": "fin", "A03": "busy"}])
def test_run_that_comes_to_a_finished_step_again_takes_it_as_it_is(workspace: Workspace, words: dict[str, str]) -> None:
    write_words(workspace.layout, EXPERIMENT, words=words)
    spec = workspace.pipeline.spec("letters")
    for repeated, stands in ((False, False), (False, False), (True, True)):
        with lock_step(
            spec, workspace=workspace, experiment=EXPERIMENT, run_id="run", force=True, repeated=repeated
        ) as session:
            assert (session.cached is not None) is stands
            if session.cached is None:
                finish(workspace.layout, outcome=session.run())


def test_permanently_failed_well_does_not_keep_the_step_stale(workspace: Workspace) -> None:
    write_words(workspace.layout, EXPERIMENT, words={"A01": "fish", "A02": "fail", "A03": "fin"})
    assert ran(workspace) == list(STEPS)
    assert record(workspace, "letters").status == "degraded"
    assert ran(workspace) == []


def _run_elsewhere(root: Path, start: object) -> None:
    start.wait()  # type: ignore[attr-defined]
    run_chain(open_toy(root), EXPERIMENT, run_id=str(os.getpid()))


def test_runs_at_the_same_time_compute_every_step_once(tmp_path: Path) -> None:
    fork = multiprocessing.get_context("fork")
    workspace = open_toy(tmp_path / "both")
    write_words(workspace.layout, EXPERIMENT, words={f"{row}{n:02d}": f"{row}{n}" for row in "AB" for n in range(1, 9)})
    start = fork.Event()
    runs = [fork.Process(target=_run_elsewhere, args=(workspace.data_root, start)) for _ in range(4)]
    for run in runs:
        run.start()
    start.set()
    for run in runs:
        run.join(60)
    assert [run.exitcode for run in runs] == [0] * 4
    makers = {record(workspace, step).run_id for step in STEPS}
    assert makers <= {str(run.pid) for run in runs}
    assert ran(workspace) == []
    assert sorted(workspace.data_root.rglob("*.tmp")) == []
    assert record(workspace, "letters").counts["computed"] == 16


def test_commit_that_is_refused_is_recorded_and_keeps_the_old_version(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran(workspace)
    good = published(workspace.data_root)
    write_words(workspace.layout, EXPERIMENT, words={"A01": "whale"})

    def refuse(*args: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(commit_module, "write_durably", refuse)
        with pytest.raises(TransientError, match="Input/output error"):
            ran(workspace)
    words = f"words/{EXPERIMENT}.txt"
    assert {k: v for k, v in published(workspace.data_root).items() if k != words} == {
        k: v for k, v in good.items() if k != words
    }
    told = failure(workspace, "letters")
    assert told is not None
    assert (told.tries, told.error.kind) == (1, "transient")
    assert sorted(workspace.data_root.rglob("*.tmp")) == []
    assert ran(workspace) == list(STEPS)


def test_interrupted_publication_is_finished_by_the_next_session(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*args: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(commit_module, "_publish", stop)
        with pytest.raises(KeyboardInterrupt):
            ran(workspace)
    assert is_interrupted(workspace.layout, step="letters", experiment=EXPERIMENT)
    assert ran(workspace) == ["lengths", "summary"], "what was staged counts"
    assert not is_interrupted(workspace.layout, step="letters", experiment=EXPERIMENT)


def execute(workspace: Workspace) -> Executed:
    spec = workspace.pipeline.spec("letters")
    with lock_step(spec, workspace=workspace, experiment=EXPERIMENT, run_id="r") as session:
        outcome = session.run()
    assert isinstance(outcome, Executed)
    return outcome


def test_result_that_is_never_committed_can_be_discarded_and_a_published_one_stays(workspace: Workspace) -> None:
    outcome = execute(workspace)
    assert sorted(workspace.data_root.rglob("*.tmp"))
    discard_unpublished(workspace.layout, outcome=outcome)
    assert sorted(workspace.data_root.rglob("*.tmp")) == []
    outcome = execute(workspace)
    made = finish(workspace.layout, outcome=outcome)
    discard_unpublished(workspace.layout, outcome=outcome)
    spec = workspace.pipeline.spec("letters")
    assert find_answer(workspace.layout, spec=spec, request=outcome.request) == made


def test_result_of_another_place_is_verified(workspace: Workspace) -> None:
    outcome = execute(workspace)
    made = finish(workspace.layout, outcome=outcome)
    committed = Committed(outcome.request, made)
    assert verify(workspace.layout, committed=committed) == made
    other = Committed(outcome.request.model_copy(update={"version": 2}), made)
    with pytest.raises(PermanentError, match="a record of request"):
        verify(workspace.layout, committed=other)
    picture = workspace.layout.folders("letters", experiment=EXPERIMENT)[0] / "A01.txt"
    picture.unlink()
    with pytest.raises(PermanentError, match="missing"):
        verify(workspace.layout, committed=committed)
    workspace.layout.record(workspace.layout.absolute(made.output.path)).unlink()
    with pytest.raises(PermanentError, match="no record"):
        finish(workspace.layout, outcome=committed)


def test_other_version_of_the_code_is_refused(workspace: Workspace) -> None:
    spec = workspace.pipeline.spec("letters")
    newer = replace(spec, version=2)
    with (
        lock_step(spec, workspace=workspace, experiment=EXPERIMENT, run_id="r") as session,
        pytest.raises(MorphseqError) as caught,
    ):
        LocalExecutor(workspace.pipeline).run(newer, request=session.request)
    assert (caught.value.expected, caught.value.found) == ("version 1 of step letters", "version 2")


@pytest.mark.parametrize("needed", [False, True])
def test_pruned_result_is_made_again_only_where_a_later_step_needs_its_bytes(
    workspace: Workspace, needed: bool
) -> None:
    ran(workspace)
    pruned = record(workspace, "lengths").model_copy(update={"condition": "pruned"})
    path = workspace.layout.absolute(pruned.output.path)
    workspace.layout.record(path).write_bytes(encode(pruned))
    path.unlink()
    steps = workspace.pipeline.steps
    newer = replace(workspace.pipeline, steps=(*steps[:2], replace(steps[2], version=2)))
    space = Workspace(workspace.data_root, newer) if needed else workspace
    assert ran(space) == (["lengths", "summary"] if needed else [])


def test_record_tells_inputs_recipe_counts_and_place(workspace: Workspace) -> None:
    ran(workspace)
    made = record(workspace, "lengths")
    assert [entry.name for entry in made.inputs] == ["letters"]
    assert made.inputs[0].sha256 == record(workspace, "letters").data_version
    assert (made.step, made.experiment, made.step_version, made.place) == ("lengths", EXPERIMENT, 1, "process")
    assert made.counts == {"rows": 2}
    assert made.pid == os.getpid()
    assert made.seconds >= 0
    assert {well: state.status for well, state in record(workspace, "letters").wells.items()} == {
        "A01": "ok",
        "A02": "ok",
    }
