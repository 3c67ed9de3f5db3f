"""Places: the same bytes here and in a subprocess, and honest words about a child that dies."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from morphseq_dagster.engine.contract.progress import Progress
from morphseq_dagster.engine.executors.local import LocalExecutor, SubprocessExecutor
from morphseq_dagster.engine.executors.protocol import Committed, Executor, Report, stay_silent
from morphseq_dagster.engine.executors.runner_outcome import RunnerOutcome
from morphseq_dagster.engine.locked_step import finish, lock_step
from morphseq_dagster.engine.storage.atomic_io import write_durably
from morphseq_dagster.engine.storage.records import Record, encode, read_failure, read_record
from morphseq_dagster.engine.workspace import Workspace
from morphseq_dagster.errors import PermanentError, TransientError
from morphseq_dagster.resources.executors import make_executor
from morphseq_dagster.testing.chain import TOY, open_toy, write_words
from morphseq_dagster.testing.toy import TOY_PIPELINE

EXPERIMENT = "20240418"


def run(
    workspace: Workspace, step: str, *, place: Executor, force: bool = False, progress: Report = stay_silent
) -> Record:
    spec = workspace.pipeline.spec(step)
    with lock_step(
        spec, workspace=workspace, experiment=EXPERIMENT, run_id="r", force=force, executor=place
    ) as session:
        assert session.cached is None
        return finish(workspace.layout, outcome=session.run(progress=progress))


def published(root: Path) -> dict[str, bytes]:
    return {
        p.relative_to(root).as_posix(): p.read_bytes()
        for p in sorted(root.rglob("*"))
        if p.is_file() and ".morphseq" not in p.parts and not p.name.endswith((".provenance.json", ".failure.json"))
    }


def working_files(workspace: Workspace) -> list[Path]:
    return [p for p in workspace.layout.requests(EXPERIMENT).rglob("*") if p.is_file()]


def test_process_and_subprocess_give_the_same_bytes_and_versions(workspace: Workspace, tmp_path: Path) -> None:
    other = open_toy(tmp_path / "other")
    write_words(other.layout, EXPERIMENT, words={"A01": "fish", "A02": "fin"})
    heard: list[Progress] = []
    for step in ("letters", "lengths", "summary"):
        here = run(workspace, step, place=LocalExecutor(TOY_PIPELINE))
        there = run(other, step, place=SubprocessExecutor(pipeline=TOY), progress=heard.append)
        assert (here.data_version, here.request_key) == (there.data_version, there.request_key)
        assert (here.place, there.place) == ("process", "subprocess")
        assert there.pid != os.getpid()
    assert published(workspace.data_root) == published(other.data_root)
    assert [(p.step, p.done, p.total, p.label) for p in heard] == [("letters", 1, 2, "A01"), ("letters", 2, 2, "A02")]
    assert working_files(other) == []


def test_child_killed_at_work_is_transient_names_the_signal_and_is_recorded(workspace: Workspace) -> None:
    write_words(workspace.layout, EXPERIMENT, words={"A01": "fish", "A02": "kill"})
    with pytest.raises(TransientError, match="SIGKILL") as caught:
        run(workspace, "letters", place=SubprocessExecutor(pipeline=TOY))
    assert "memory" in caught.value.found
    assert EXPERIMENT in caught.value.where
    told = read_failure(
        workspace.layout, primary=workspace.output(workspace.pipeline.spec("letters"), experiment=EXPERIMENT)
    )
    assert told is not None
    assert (told.error.kind, told.tries) == ("transient", 1)
    assert working_files(workspace) == []
    write_words(workspace.layout, EXPERIMENT, words={"A01": "fish", "A02": "fin"})
    made = run(workspace, "letters", place=LocalExecutor(TOY_PIPELINE))
    assert made.counts["computed"] == 1, "the well finished before the kill came from its checkpoint"


def test_error_of_the_child_comes_back_whole_and_is_recorded_once(workspace: Workspace) -> None:
    write_words(workspace.layout, EXPERIMENT, words={"A01": "fail", "A02": "fail"})
    with pytest.raises(PermanentError) as caught:
        run(workspace, "letters", place=SubprocessExecutor(pipeline=TOY))
    assert "A01" in caught.value.found
    assert caught.value.remedy
    told = read_failure(
        workspace.layout, primary=workspace.output(workspace.pipeline.spec("letters"), experiment=EXPERIMENT)
    )
    assert told is not None
    assert told.tries == 1
    assert told.error.found == caught.value.found


def test_child_that_cannot_start_is_told_with_its_exit_code(workspace: Workspace) -> None:
    with pytest.raises(TransientError, match="ended with code 1 and left no outcome"):
        run(workspace, "letters", place=SubprocessExecutor(pipeline="morphseq_dagster.testing.toy:NOTHING"))
    assert working_files(workspace) == []


@pytest.mark.parametrize("force", [False, True])
def test_child_that_published_and_died_before_it_could_say_so_has_succeeded(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, force: bool
) -> None:
    from morphseq_dagster.engine.executors import local as module

    if force:
        before = run(workspace, "letters", place=LocalExecutor(TOY_PIPELINE))
    monkeypatch.setattr(module, "read_outcome", lambda path: RunnerOutcome())
    made = run(workspace, "letters", place=SubprocessExecutor(pipeline=TOY), force=force)
    assert made.place == "subprocess"
    if force:
        assert made != before


def test_record_of_an_earlier_run_is_no_success_of_a_child_that_died(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(workspace, "letters", place=LocalExecutor(TOY_PIPELINE))
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(TransientError, match="ended with code 1"):
        run(workspace, "letters", place=SubprocessExecutor(pipeline=TOY), force=True)


def test_publication_that_the_child_had_begun_is_finished(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The child is this program: it stops for good once the journal is written.
    program = workspace.data_root / "dying"
    program.write_text(
        "import os, sys\n"
        "from morphseq_dagster.engine.storage import commit\n"
        "commit._publish = lambda *a: os._exit(9)\n"
        "from morphseq_dagster.engine.executors.runner import main\n"
        "sys.exit(main(sys.argv[3:]))\n"
    )
    starter = workspace.data_root / "python"
    starter.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{program}" "$@"\n')
    starter.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(starter))
    made = run(workspace, "letters", place=SubprocessExecutor(pipeline=TOY))
    assert made.place == "subprocess"
    assert sorted(workspace.data_root.rglob("*.tmp")) == []


def test_runner_runs_a_request_by_itself_and_leaves_the_outcome(workspace: Workspace, tmp_path: Path) -> None:
    request = workspace.request(workspace.pipeline.spec("letters"), experiment=EXPERIMENT, run_id="hand")
    write_durably(tmp_path / "request.json", encode(request))
    command = [sys.executable, "-m", "morphseq_dagster.engine.executors.runner", str(tmp_path / "request.json")]
    options = ["--pipeline", TOY, "--outcome", str(tmp_path / "outcome.json")]
    done = subprocess.run([*command, *options], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    outcome = RunnerOutcome.model_validate_json((tmp_path / "outcome.json").read_bytes())
    primary = workspace.layout.absolute(request.output)
    assert outcome.record == read_record(workspace.layout, primary=primary)
    # A runner whose parent is another process than it was told ends at once: nobody holds its claim.
    orphan = subprocess.run([*command, *options, "--parent", "1"], check=False, capture_output=True, text=True)
    assert orphan.returncode != 0
    assert "gone" in orphan.stderr


def test_progress_that_is_none_goes_to_the_log(capfd: pytest.CaptureFixture[str]) -> None:
    from morphseq_dagster.engine.executors.runner_outcome import relay_line

    heard: list[Progress] = []
    relay_line(b'{"step": "s", "done": 1, "total": 2, "label": "A01"}\n', progress=heard.append)
    for line in (b"words of a library\n", b"[1, 2]\n", b'{"step": 1}\n', b"\xff\n", b"3\n"):
        relay_line(line, progress=heard.append)
    assert heard == [Progress("s", 1, 2, "A01")]
    assert "words of a library" in capfd.readouterr().err


def test_place_is_made_by_name(tmp_path: Path) -> None:
    options: Any = {"pipeline": TOY, "data_root": tmp_path}
    assert isinstance(make_executor("process", **options), LocalExecutor)
    assert isinstance(make_executor("subprocess", **options), SubprocessExecutor)
    with pytest.raises(PermanentError, match="moon"):
        make_executor("moon", **options)


def test_verified_result_of_the_child_is_refused_when_somebody_changed_it_meanwhile(workspace: Workspace) -> None:
    spec = workspace.pipeline.spec("letters")
    executor = SubprocessExecutor(pipeline=TOY)
    with lock_step(spec, workspace=workspace, experiment=EXPERIMENT, run_id="r", executor=executor) as session:
        outcome = session.run()
        assert isinstance(outcome, Committed)
        workspace.layout.absolute(outcome.record.output.path).write_text("{}")
        with pytest.raises(PermanentError, match="an output that is changed"):
            finish(workspace.layout, outcome=outcome)
